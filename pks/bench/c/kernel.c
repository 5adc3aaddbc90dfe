/* What the accumulator's kernel does for plain trades, as one would write it in C for this one purpose: find the key, match FIFO, 128-bit
 * cost and realised P&L, fees by currency, the account's quantity, a match record for each part, and the position into its slot once a batch.
 * It knows one lot method, one kind of contract and no policy, checks no overflow and keeps no history: it does less than ours. */
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef __int128 money_t;

typedef struct {
    int64_t version;
    uint32_t book_id, instrument_id;
    int64_t qty_raw, cost_hi;
    uint64_t cost_lo;
    int64_t realised_hi;
    uint64_t realised_lo;
    int64_t last_sequence, event_time_ns, recorded_ns;
    int64_t clearing_cost_hi;
    uint64_t clearing_cost_lo;
    int64_t variation_hi;
    uint64_t variation_lo;
    int64_t last_price_raw;
    uint32_t open_lots;
    uint8_t price_scale, qty_scale, money_scale, flags;
    uint32_t fee_currency_id[4];
    int64_t fees_hi[4];
    uint64_t fees_lo[4];
    int64_t trades_count;
    uint64_t reserved[5];
} position_t;
_Static_assert(sizeof(position_t) == SLOT_BYTES, "a slot's copy");
_Static_assert(offsetof(position_t, realised_lo) == SLOT_realised_lo, "as declared");
_Static_assert(offsetof(position_t, open_lots) == SLOT_open_lots, "as declared");
_Static_assert(offsetof(position_t, fees_lo) == SLOT_fees_lo, "as declared");
_Static_assert(offsetof(position_t, trades_count) == SLOT_trades_count, "as declared");

typedef struct {
    int64_t qty_raw, price_raw, sequence;
    int32_t date, leg;
} lot_t;

typedef struct {
    position_t position;
    lot_t *lots; /* a ring of `room` lots, a power of two; the oldest at `first` */
    uint32_t first, count, room, in_batch;
    int64_t account_qty, batch, account_sequence;
} key_row_t;

typedef struct {
    key_row_t *keys;
    int64_t *index; /* [entries][2]: packed key, row + 1 */
    int64_t entries, keys_count, keys_room, batch;
    int64_t factor; /* value = qty_raw * price_raw * factor */
    unsigned char *matches;
    int64_t matches_room, matches_count;
    int32_t *changed;
    int64_t changed_count;
} book_t;

#define VERSION_WORDS 8
#define COPY_WORDS (SLOT_BYTES / 8)
#define STRIDE (VERSION_WORDS + 2 * COPY_WORDS)

static inline int64_t word(const unsigned char *event, size_t at)
{
    int64_t value;
    memcpy(&value, event + at, 8);
    return value;
}

static inline uint32_t half(const unsigned char *event, size_t at)
{
    uint32_t value;
    memcpy(&value, event + at, 4);
    return value;
}

static inline money_t join(int64_t hi, uint64_t lo)
{
    return (money_t)(((unsigned __int128)(uint64_t)hi << 64) | lo);
}

book_t *book_make(int64_t keys, int64_t factor, int64_t batch)
{
    book_t *book = calloc(1, sizeof *book);
    book->entries = 16;
    while (book->entries < 2 * keys)
        book->entries *= 2;
    book->keys = aligned_alloc(64, (size_t)keys * sizeof(key_row_t));
    memset(book->keys, 0, (size_t)keys * sizeof(key_row_t));
    book->index = calloc((size_t)book->entries, 16);
    book->keys_room = keys;
    book->factor = factor;
    book->matches_room = 64 * batch;
    book->matches = malloc((size_t)book->matches_room * MATCH_BYTES);
    book->changed = malloc((size_t)batch * sizeof *book->changed);
    return book;
}

void book_free(book_t *book)
{
    for (int64_t row = 0; row < book->keys_count; row++)
        free(book->keys[row].lots);
    free(book->keys);
    free(book->index);
    free(book->matches);
    free(book->changed);
    free(book);
}

const void *book_keys(const book_t *book) { return book->keys; }
int64_t book_keys_count(const book_t *book) { return book->keys_count; }
int64_t book_key_bytes(void) { return sizeof(key_row_t); }

static key_row_t *find_key(book_t *book, uint32_t book_id, uint32_t instrument_id)
{
    int64_t key = (int64_t)book_id << 32 | instrument_id;
    int64_t at = (int64_t)(((uint64_t)key * 0x9E3779B97F4A7C15u) >> 32) & (book->entries - 1);
    while (book->index[2 * at + 1] != 0) {
        if (book->index[2 * at] == key)
            return book->keys + book->index[2 * at + 1] - 1;
        at = (at + 1) & (book->entries - 1);
    }
    if (book->keys_count == book->keys_room)
        return NULL;
    key_row_t *row = book->keys + book->keys_count++;
    book->index[2 * at] = key;
    book->index[2 * at + 1] = book->keys_count;
    row->position.book_id = book_id;
    row->position.instrument_id = instrument_id;
    row->room = 8;
    row->lots = malloc(row->room * sizeof(lot_t));
    row->batch = -1;
    return row;
}

static void open_lot(key_row_t *row, int64_t qty, int64_t price, int64_t sequence, int32_t date, int32_t leg)
{
    if (row->count == row->room) {
        lot_t *longer = malloc(2 * row->room * sizeof(lot_t));
        for (uint32_t n = 0; n < row->count; n++)
            longer[n] = row->lots[(row->first + n) & (row->room - 1)];
        free(row->lots);
        row->lots = longer;
        row->first = 0;
        row->room *= 2;
    }
    lot_t *lot = row->lots + ((row->first + row->count++) & (row->room - 1));
    lot->qty_raw = qty;
    lot->price_raw = price;
    lot->sequence = sequence;
    lot->date = date;
    lot->leg = leg;
}

static void say_match(book_t *book, const position_t *p, const unsigned char *event, const lot_t *lot, int64_t taken, int64_t close_price,
                      money_t cost, money_t gain, int32_t number)
{
    unsigned char *m = book->matches + book->matches_count++ * MATCH_BYTES;
    int64_t sequence = word(event, EVENT_sequence), recorded = word(event, EVENT_recorded_ns);
    int32_t date = (int32_t)half(event, EVENT_effective_date);
    int64_t cost_hi = (int64_t)(cost >> 64), gain_hi = (int64_t)(gain >> 64);
    uint64_t cost_lo = (uint64_t)cost, gain_lo = (uint64_t)gain;
    uint16_t leg = (uint16_t)lot->leg;
    memcpy(m + MATCH_sequence, &sequence, 8);
    memcpy(m + MATCH_cause, &sequence, 8);
    memcpy(m + MATCH_recorded_ns, &recorded, 8);
    memcpy(m + MATCH_open_sequence, &lot->sequence, 8);
    memcpy(m + MATCH_book_id, &p->book_id, 4);
    memcpy(m + MATCH_instrument_id, &p->instrument_id, 4);
    memcpy(m + MATCH_qty_raw, &taken, 8);
    memcpy(m + MATCH_open_price_raw, &lot->price_raw, 8);
    memcpy(m + MATCH_close_price_raw, &close_price, 8);
    memcpy(m + MATCH_cost_hi, &cost_hi, 8);
    memcpy(m + MATCH_cost_lo, &cost_lo, 8);
    memcpy(m + MATCH_realised_hi, &gain_hi, 8);
    memcpy(m + MATCH_realised_lo, &gain_lo, 8);
    memcpy(m + MATCH_open_date, &lot->date, 4);
    memcpy(m + MATCH_effective_date, &date, 4);
    memcpy(m + MATCH_index, &number, 4);
    memcpy(m + MATCH_open_leg, &leg, 2);
    m[MATCH_kind] = 1;
    m[MATCH_price_scale] = p->price_scale;
    m[MATCH_qty_scale] = p->qty_scale;
    m[MATCH_money_scale] = p->money_scale;
}

static void apply(book_t *book, const unsigned char *event, key_row_t *row)
{
    position_t *p = &row->position;
    int64_t qty = word(event, EVENT_qty_raw) * (int8_t)event[EVENT_side], price = word(event, EVENT_price_raw), left = qty;
    int64_t sequence = word(event, EVENT_sequence);
    money_t cost = join(p->cost_hi, p->cost_lo), realised = join(p->realised_hi, p->realised_lo);
    int32_t number = 0;
    p->price_scale = event[EVENT_price_scale];
    p->qty_scale = event[EVENT_qty_scale];
    p->money_scale = event[EVENT_money_scale];
    while (left != 0 && row->count > 0 && (row->lots[row->first].qty_raw > 0) != (left > 0)) {
        lot_t *lot = row->lots + row->first;
        int64_t size = lot->qty_raw > 0 ? lot->qty_raw : -lot->qty_raw, want = left > 0 ? left : -left;
        int64_t part = size < want ? size : want, taken = lot->qty_raw > 0 ? part : -part;
        money_t part_cost = (money_t)taken * lot->price_raw * book->factor;
        money_t gain = (money_t)taken * price * book->factor - part_cost;
        realised += gain;
        cost -= part_cost;
        say_match(book, p, event, lot, taken, price, part_cost, gain, number++);
        lot->qty_raw -= taken;
        left += taken;
        if (lot->qty_raw == 0) {
            row->first = (row->first + 1) & (row->room - 1);
            row->count--;
        }
    }
    for (int32_t n = 1; n <= number; n++)
        memcpy(book->matches + (book->matches_count - n) * MATCH_BYTES + MATCH_count, &number, 4);
    if (left != 0) {
        cost += (money_t)left * price * book->factor;
        open_lot(row, left, price, sequence, (int32_t)half(event, EVENT_lot_date), number ? 2 : 0);
    }
    p->qty_raw += qty;
    p->cost_hi = (int64_t)(cost >> 64);
    p->cost_lo = (uint64_t)cost;
    p->realised_hi = (int64_t)(realised >> 64);
    p->realised_lo = (uint64_t)realised;
    p->open_lots = row->count;
    int64_t fee = word(event, EVENT_fee_raw);
    if (fee != 0) {
        static const int64_t powers[19] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000, 1000000000, 10000000000,
            100000000000, 1000000000000, 10000000000000, 100000000000000, 1000000000000000, 10000000000000000, 100000000000000000,
            1000000000000000000};
        uint32_t currency = half(event, EVENT_fee_currency_id);
        for (int cell = 0; cell < 4; cell++)
            if (p->fee_currency_id[cell] == currency || p->fee_currency_id[cell] == 0) {
                money_t fees = join(p->fees_hi[cell], p->fees_lo[cell]) + (money_t)fee * powers[18 - event[EVENT_fee_scale]];
                p->fee_currency_id[cell] = currency;
                p->fees_hi[cell] = (int64_t)(fees >> 64);
                p->fees_lo[cell] = (uint64_t)fees;
                break;
            }
    }
    row->account_qty += qty;
    row->account_sequence = sequence;
    p->last_sequence = sequence;
    p->event_time_ns = word(event, EVENT_trade_time_ns);
    p->recorded_ns = word(event, EVENT_recorded_ns);
    p->last_price_raw = price;
    p->trades_count++;
}

static void write_slot(int64_t *slots, int64_t row, const position_t *position)
{
    int64_t *slot = slots + row * STRIDE;
    int64_t version = slot[0] + 1, *copy = slot + VERSION_WORDS + (version & 1) * COPY_WORDS;
    atomic_thread_fence(memory_order_release);
    memcpy(copy, position, SLOT_BYTES);
    copy[0] = version;
    __atomic_store_n(slot, version, __ATOMIC_RELEASE);
}

/* Events first..last (event n at n & mask) in batches; slots written, or -1 when a table is too small. */
int64_t book_run(book_t *book, const unsigned char *events, int64_t mask, int64_t first, int64_t last, int64_t batch, int64_t *slots)
{
    int64_t written = 0;
    for (int64_t start = first; start <= last; start += batch) {
        int64_t end = start + batch - 1 < last ? start + batch - 1 : last;
        book->batch++;
        book->changed_count = book->matches_count = 0;
        for (int64_t n = start; n <= end; n++) {
            const unsigned char *event = events + (n & mask) * EVENT_BYTES;
            if (event[EVENT_kind] != 1)
                return -1;
            key_row_t *row = find_key(book, half(event, EVENT_book_id), half(event, EVENT_instrument_id));
            if (row == NULL || book->matches_count + row->count > book->matches_room)
                return -1;
            apply(book, event, row);
            if (row->batch != book->batch) {
                row->batch = book->batch;
                book->changed[book->changed_count++] = (int32_t)(row - book->keys);
            }
        }
        for (int64_t n = 0; n < book->changed_count; n++)
            write_slot(slots, book->changed[n], &book->keys[book->changed[n]].position);
        written += book->changed_count;
    }
    return written;
}
