/* The ring to compare with: one producer, one consumer, records of 128 bytes, head and tail on lines of their own; and the hand-over of one
 * cache line between two cores. Written as one would by hand: the producer remembers the tail, both work in place. */
#include <stdatomic.h>
#include <stdint.h>

#define RECORD_WORDS 16

typedef struct {
    _Alignas(128) _Atomic int64_t head;
    _Alignas(128) _Atomic int64_t tail;
    _Alignas(128) int64_t records[];
} ring_t;

void ring_reset(ring_t *ring)
{
    atomic_store(&ring->head, 0);
    atomic_store(&ring->tail, 0);
}

/* Publish `total` records in batches; then wait until all are read. 0, or -1 when the other side is gone. */
int64_t ring_produce(ring_t *ring, int64_t capacity, int64_t total, int64_t batch, int64_t idle_max)
{
    int64_t head = 0, tail = 0, idle = 0;
    while (head < total) {
        if (head + batch - tail > capacity) {
            tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
            if (++idle > idle_max)
                return -1;
            continue;
        }
        idle = 0;
        for (int64_t n = 0; n < batch; n++, head++) {
            int64_t *record = ring->records + (head & (capacity - 1)) * RECORD_WORDS;
            for (int word = 0; word < RECORD_WORDS; word++)
                record[word] = head + word;
        }
        atomic_store_explicit(&ring->head, head, memory_order_release);
    }
    for (idle = 0; atomic_load_explicit(&ring->tail, memory_order_acquire) != total;)
        if (++idle > idle_max)
            return -1;
    return 0;
}

/* Read `total` records, every word of each; the sum of all words, or -1. */
int64_t ring_consume(ring_t *ring, int64_t capacity, int64_t total, int64_t idle_max)
{
    int64_t tail = 0, sum = 0, idle = 0;
    while (tail < total) {
        int64_t head = atomic_load_explicit(&ring->head, memory_order_acquire);
        if (head == tail) {
            if (++idle > idle_max)
                return -1;
            continue;
        }
        idle = 0;
        for (; tail < head; tail++) {
            const int64_t *record = ring->records + (tail & (capacity - 1)) * RECORD_WORDS;
            for (int word = 0; word < RECORD_WORDS; word++)
                sum += record[word];
        }
        atomic_store_explicit(&ring->tail, tail, memory_order_release);
    }
    return sum & 0x7fffffffffffffff;
}

typedef struct {
    _Alignas(128) _Atomic int64_t there;
    _Alignas(128) _Atomic int64_t back;
} line_t;

/* The leader's and the follower's half of `rounds` hand-overs there and back. */
int64_t line_lead(line_t *line, int64_t rounds, int64_t idle_max)
{
    for (int64_t n = 1; n <= rounds; n++) {
        int64_t idle = 0;
        atomic_store_explicit(&line->there, n, memory_order_release);
        while (atomic_load_explicit(&line->back, memory_order_acquire) != n)
            if (++idle > idle_max)
                return -1;
    }
    return 0;
}

int64_t line_follow(line_t *line, int64_t rounds, int64_t idle_max)
{
    for (int64_t n = 1; n <= rounds; n++) {
        int64_t idle = 0;
        while (atomic_load_explicit(&line->there, memory_order_acquire) != n)
            if (++idle > idle_max)
                return -1;
        atomic_store_explicit(&line->back, n, memory_order_release);
    }
    return 0;
}
