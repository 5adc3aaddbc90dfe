/* Reads one position for a while and counts copies that are not of one version: the law of tests/unit/client/filler.py in C.
 *
 *     reader INSTANCE BOOK_ID INSTRUMENT_ID READS
 *
 * Prints: good torn unstable back changes nanoseconds. Built twice: as it is, and with the version check compiled away.
 */
#include "pks.h"

#include <inttypes.h>
#include <stdlib.h>

#define PRICE 3
#define FEE 7
#define TIME_NS INT64_C(1741946711000000000)

static int is_whole(const pks_position_slot_t *slot)
{
    int64_t n = slot->qty_raw;
    return (int64_t)slot->cost_lo == n * PRICE && (int64_t)slot->realised_lo == n * 5 && slot->last_sequence == n &&
           slot->event_time_ns == TIME_NS + n && slot->recorded_ns == TIME_NS + 2 * n && slot->last_price_raw == n * 11 &&
           (int64_t)slot->fees_lo[0] == n * FEE && slot->trades_count == n;
}

int main(int count, char **words)
{
    char name[300];
    pks_segment_t positions;
    pks_position_slot_t slot;
    int64_t good = 0, torn = 0, unstable = 0, back = 0, changes = 0, last = 0, row, reads, started_ns;
    int answer;
    if (count != 5)
        return 2;
    snprintf(name, sizeof name, "/pks-positions-v1.%s", words[1]);
    answer = pks_segment_open(&positions, name);
    if (answer != PKS_OK)
        return 10 - answer;
    row = pks_position_find(&positions, (uint32_t)strtoul(words[2], NULL, 10), (uint32_t)strtoul(words[3], NULL, 10));
    if (row < 0)
        return 10 - (int)row;
    started_ns = pks_clock_ns();
    for (reads = strtoll(words[4], NULL, 10); reads > 0; reads--) {
        answer = pks_position_read(&positions, row, &slot);
        if (answer == PKS_UNSTABLE) {
            unstable++;
        } else if (answer != PKS_OK) {
            return 10 - answer;
        } else if (is_whole(&slot)) {
            good++;
            back += slot.version < last;
            changes += slot.version != last;
            last = slot.version;
        } else {
            torn++;
        }
    }
    printf("%" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 "\n", good, torn, unstable, back, changes,
           pks_clock_ns() - started_ns);
    pks_segment_close(&positions);
    return 0;
}
