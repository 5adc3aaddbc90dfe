/* Readers to compare with. `table_read_many` reads the very table that our compiled loop reads, by the same protocol: version, copy
 * (version & 1), version again. `plain_read_many` is the limit: a plain seqlock of 256 bytes, one copy, which a writer can hold up. */
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

#define COPY_WORDS (SLOT_BYTES / 8)
#define VERSION_WORDS 8
#define STRIDE (VERSION_WORDS + 2 * COPY_WORDS)
#define PLAIN_WORDS 32

/* The whole copy is made, as a caller would want it, whatever is looked at afterwards. */
#define USED(array) __asm__ volatile("" : : "r"(array) : "memory")

static inline uint64_t next_row(uint64_t *state)
{
    uint64_t x = *state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *state = x;
}

/* `reads` slots at random rows (rows: a power of two); a number that depends on all of them. tries[0] grows by the reads that were repeated. */
int64_t table_read_many(const int64_t *slots, int64_t rows, int64_t reads, uint64_t seed, int64_t *tries)
{
    int64_t copy[COPY_WORDS], sum = 0;
    for (int64_t n = 0; n < reads; n++) {
        const int64_t *slot = slots + (int64_t)(next_row(&seed) & (uint64_t)(rows - 1)) * STRIDE;
        for (;;) {
            int64_t before = __atomic_load_n(slot, __ATOMIC_ACQUIRE);
            memcpy(copy, slot + VERSION_WORDS + (before & 1) * COPY_WORDS, sizeof copy);
            atomic_thread_fence(memory_order_acquire);
            if (__atomic_load_n(slot, __ATOMIC_RELAXED) == before)
                break;
            tries[0]++;
        }
        USED(copy);
        sum += copy[n & (COPY_WORDS - 1)];
    }
    return sum & 0x7fffffffffffffff;
}

int64_t plain_read_many(const int64_t *slots, int64_t rows, int64_t reads, uint64_t seed, int64_t *tries)
{
    int64_t copy[PLAIN_WORDS - 1], sum = 0;
    for (int64_t n = 0; n < reads; n++) {
        const int64_t *slot = slots + (int64_t)(next_row(&seed) & (uint64_t)(rows - 1)) * PLAIN_WORDS;
        for (;;) {
            int64_t before = __atomic_load_n(slot, __ATOMIC_ACQUIRE);
            if (!(before & 1)) {
                memcpy(copy, slot + 1, sizeof copy);
                atomic_thread_fence(memory_order_acquire);
                if (__atomic_load_n(slot, __ATOMIC_RELAXED) == before)
                    break;
            }
            tries[0]++;
        }
        USED(copy);
        sum += copy[n % (PLAIN_WORDS - 1)];
    }
    return sum & 0x7fffffffffffffff;
}
