/* Positions of a running system from C: all that are open, or one, now or as it changes.
 *
 *     make -C examples && examples/read_positions
 *     examples/read_positions -i x ALPHA SBER.MOEX        one position of instance x
 *     examples/read_positions -w 5 ALPHA SBER.MOEX        every change of it for 5 seconds
 *
 * Exit codes: 0 done, 1 nothing there, 2 wrong arguments, 3 the system is gone. Books of this host are all visible to its readers.
 */
#include "pks.h"

#include <stdlib.h>

typedef struct {
    pks_segment_t positions, refdata;
} host_t;

static int attach(host_t *host, const char *instance)
{
    char name[300];
    int answer;
    snprintf(name, sizeof name, "/pks-positions-v1%s%s", *instance ? "." : "", instance);
    answer = pks_segment_open(&host->positions, name);
    if (answer != PKS_OK)
        return answer;
    snprintf(name, sizeof name, "/pks-refdata-v1%s%s", *instance ? "." : "", instance);
    return pks_segment_open(&host->refdata, name);
}

/* Code and multiplier of a row of reference data; the id where it is not there. */
static double multiplier_of(const host_t *host, uint32_t subject, uint32_t id, char *code, size_t size)
{
    pks_refdata_slot_t row;
    int64_t i = pks_slot_find(&host->refdata, subject, id);
    if (i < 0 || pks_refdata_read(&host->refdata, i, &row) != PKS_OK) {
        snprintf(code, size, "#%u", (unsigned)id);
        return 1.0;
    }
    snprintf(code, size, "%.*s", (int)sizeof row.code, row.code);
    return row.multiplier_denominator > 0 ? (double)row.multiplier_numerator / (double)row.multiplier_denominator : 1.0;
}

/* Decimal text of raw / 10^scale, exact. */
static void put_decimal(int64_t raw, unsigned scale)
{
    char digits[32];
    uint64_t size = raw < 0 ? 0 - (uint64_t)raw : (uint64_t)raw;
    int length = snprintf(digits, sizeof digits, "%0*llu", (int)scale + 1, (unsigned long long)size);
    printf("%s%.*s", raw < 0 ? "-" : "", length - (int)scale, digits);
    if (scale > 0)
        printf(".%s", digits + length - scale);
}

static void print_position(const host_t *host, const pks_position_slot_t *slot)
{
    char book[64], instrument[64];
    double multiplier;
    multiplier_of(host, PKS_SUBJECT_BOOK, slot->book_id, book, sizeof book);
    multiplier = multiplier_of(host, PKS_SUBJECT_INSTRUMENT, slot->instrument_id, instrument, sizeof instrument);
    printf("%s %s ", book, instrument);
    put_decimal(slot->qty_raw, slot->qty_scale);
    printf(" cost %.15g realised %.15g lots %u event %lld\n", pks_money_shown(slot->cost_hi, slot->cost_lo, slot->money_scale) * multiplier,
           pks_money_shown(slot->realised_hi, slot->realised_lo, slot->money_scale) * multiplier, (unsigned)slot->open_lots,
           (long long)slot->last_sequence);
}

static int print_all(const host_t *host)
{
    pks_position_slot_t slot;
    int64_t i, shown = 0;
    for (i = 0; i < pks_slot_count(&host->positions); i++) {
        int answer = pks_slot_version(&host->positions, i) == 0 ? PKS_EMPTY : pks_position_read(&host->positions, i, &slot);
        if (answer < 0)
            return answer;
        if (answer == PKS_OK && slot.qty_raw != 0) {
            print_position(host, &slot);
            shown++;
        }
    }
    return shown > 0 ? PKS_OK : PKS_NOT_FOUND;
}

/* Print the position, then each change that is met until the time is over. */
static int watch(const host_t *host, int64_t row, double seconds)
{
    pks_position_slot_t slot;
    int64_t seen = 0, end_ns = pks_clock_ns() + (int64_t)(seconds * 1e9);
    struct timespec nap = {0, 100000};
    do {
        int answer = pks_segment_live(&host->positions);
        if (answer == PKS_OK && pks_slot_version(&host->positions, row) != seen) {
            answer = pks_position_read(&host->positions, row, &slot);
            if (answer == PKS_OK) {
                seen = slot.version;
                print_position(host, &slot);
                fflush(stdout);
            }
        }
        if (answer < 0)
            return answer;
        nanosleep(&nap, NULL);
    } while (pks_clock_ns() < end_ns);
    return PKS_OK;
}

static int one(const host_t *host, const char *book, const char *instrument, double seconds)
{
    int64_t book_id = pks_refdata_id(&host->refdata, PKS_SUBJECT_BOOK, book);
    int64_t instrument_id = pks_refdata_id(&host->refdata, PKS_SUBJECT_INSTRUMENT, instrument);
    int64_t row;
    if (book_id < 0)
        return (int)book_id;
    if (instrument_id < 0)
        return (int)instrument_id;
    row = pks_position_find(&host->positions, (uint32_t)book_id, (uint32_t)instrument_id);
    return row < 0 ? (int)row : watch(host, row, seconds);
}

static int ended(int answer)
{
    if (answer == PKS_OK)
        return 0;
    if (answer == PKS_MISSING || answer == PKS_STALE || answer == PKS_NOT_READY) {
        fprintf(stderr, "read_positions: the system is not running\n");
        return 3;
    }
    fprintf(stderr, "read_positions: %s\n", answer == PKS_NOT_FOUND ? "no such position" : "the segments cannot be read");
    return 1;
}

int main(int count, char **words)
{
    const char *instance = getenv("PKS_INSTANCE");
    double seconds = 0;
    host_t host;
    int word = 1, answer;
    memset(&host, 0, sizeof host);
    for (; word + 1 < count && words[word][0] == '-'; word += 2) {
        if (strcmp(words[word], "-i") == 0)
            instance = words[word + 1];
        else if (strcmp(words[word], "-w") == 0)
            seconds = strtod(words[word + 1], NULL);
        else
            break;
    }
    if (word != count && word + 2 != count) {
        fprintf(stderr, "read_positions [-i INSTANCE] [-w SECONDS] [BOOK INSTRUMENT]\n");
        return 2;
    }
    answer = attach(&host, instance == NULL ? "" : instance);
    if (answer == PKS_OK)
        answer = word == count ? print_all(&host) : one(&host, words[word], words[word + 1], seconds);
    pks_segment_close(&host.positions);
    pks_segment_close(&host.refdata);
    return ended(answer);
}
