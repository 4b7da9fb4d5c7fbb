/* Blocks that grow, move, overlap, are filled and freed: memory.copy, memory.fill and memory.grow.
 * `memory SIZE` (kilobytes) prints a checksum. Export: run_memory(size, repeat) -> checksum. */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCKS = 16 };

static uint64_t mix(uint64_t sum, const unsigned char *bytes, size_t length) {
    for (size_t i = 0; i < length; i += 61) sum = (sum ^ bytes[i]) * UINT64_C(0x100000001b3);
    return sum;
}

__attribute__((export_name("run_memory"))) int64_t run_memory(int32_t size, int32_t repeat) {
    uint64_t sum = UINT64_C(0xcbf29ce484222325);
    uint32_t random = 7;
    size_t most = (size > 0 ? (size_t)size : 1) * 1024;
    for (int32_t round = 0; round < repeat; round++) {
        unsigned char *blocks[BLOCKS] = {0};
        size_t lengths[BLOCKS] = {0};
        for (int step = 0; step < BLOCKS * 8; step++) {
            random = random * 1664525u + 1013904223u;
            int at = (int)(random >> 28), from = (int)(random >> 24) & 15;
            size_t length = most / 4 + random % (most - most / 4);
            unsigned char *block = realloc(blocks[at], length);
            if (!block) abort();
            if (length > lengths[at]) memset(block + lengths[at], (int)(random >> 16), length - lengths[at]);
            blocks[at] = block;
            lengths[at] = length;
            size_t shared = length < lengths[from] ? length : lengths[from];
            if (at != from && shared) memcpy(block, blocks[from], shared);
            /* Overlapping, to both sides. */
            memmove(block + length / 8, block, length / 2);
            memmove(block, block + length / 3, length / 2);
            block[random % length] ^= 0x5a;
            sum = mix(sum, block, length);
        }
        for (int at = 0; at < BLOCKS; at++) free(blocks[at]);
    }
    return (int64_t)sum;
}

int main(int argc, char **argv) {
    printf("checksum %016" PRIx64 "\n", (uint64_t)run_memory(argc > 1 ? atoi(argv[1]) : 4, 1));
    return 0;
}
