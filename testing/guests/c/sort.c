/* The C library's qsort and bsearch with comparators: calls from library code back through function pointers.
 * `sort SIZE` prints a checksum. Export: run_sort(size, repeat) -> checksum. */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct record {
    uint32_t key;
    double weight;
    char name[12];
};

static int by_key(const void *a, const void *b) {
    uint32_t x = ((const struct record *)a)->key, y = ((const struct record *)b)->key;
    return (x > y) - (x < y);
}

static int by_weight(const void *a, const void *b) {
    double x = ((const struct record *)a)->weight, y = ((const struct record *)b)->weight;
    return x != y ? (x > y) - (x < y) : by_key(a, b);
}

static int by_name(const void *a, const void *b) {
    int order = strcmp(((const struct record *)a)->name, ((const struct record *)b)->name);
    return order ? order : by_key(a, b);
}

static uint64_t mix(uint64_t sum, uint64_t value) {
    return (sum ^ value) * UINT64_C(0x9e3779b97f4a7c15) ^ sum >> 29;
}

__attribute__((export_name("run_sort"))) int64_t run_sort(int32_t size, int32_t repeat) {
    static int (*const orders[])(const void *, const void *) = {by_key, by_weight, by_name};
    size_t count = size > 0 ? (size_t)size : 1;
    struct record *records = calloc(count, sizeof *records);
    if (!records) return 0;
    uint64_t sum = 0;
    for (int32_t round = 0; round < repeat; round++) {
        uint32_t random = 99;
        for (size_t i = 0; i < count; i++) {
            random = random * 1664525u + 1013904223u;
            /* An odd multiplier makes keys differ: no order depends on how qsort treats equals. */
            records[i].key = (uint32_t)i * 2654435761u;
            records[i].weight = (random >> 16) / 16.0;
            snprintf(records[i].name, sizeof records[i].name, "n%05u", random >> 18);
        }
        for (size_t order = 0; order < 3; order++) {
            qsort(records, count, sizeof *records, orders[order]);
            for (size_t i = 0; i < count; i += 3) sum = mix(sum, records[i].key);
            struct record wanted = records[count / 2];
            struct record *found = bsearch(&wanted, records, count, sizeof *records, orders[order]);
            sum = mix(sum, found ? (uint64_t)(found - records) : UINT64_MAX);
        }
    }
    free(records);
    return (int64_t)sum;
}

int main(int argc, char **argv) {
    printf("checksum %016" PRIx64 "\n", (uint64_t)run_sort(argc > 1 ? atoi(argv[1]) : 100, 1));
    return 0;
}
