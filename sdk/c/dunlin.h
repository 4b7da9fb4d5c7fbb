/* Agents in C: a program asks where it is, and moves itself. See docs/agents.md.
 *
 * For wasm32-wasi. Nothing has to be linked: these are imports of the module dunlin:agent/mobility. */
#ifndef DUNLIN_H
#define DUNLIN_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Errors, as in WASI preview 1. */
#define DUNLIN_E2BIG 1         /* more than a mebibyte to take along */
#define DUNLIN_ENOENT 44       /* nobody sent this instance: it has no luggage */
#define DUNLIN_EHOSTUNREACH 23 /* the move was refused, or it failed: the program is where it was */
#define DUNLIN_EINVAL 28       /* the destination is empty or longer than 256 bytes */
#define DUNLIN_ENOTSUP 58      /* nothing moves programs here */

__attribute__((import_module("dunlin:agent/mobility"), import_name("migrate")))
int32_t dunlin_migrate_raw(const char *destination, size_t length);

__attribute__((import_module("dunlin:agent/mobility"), import_name("where-am-i")))
int32_t dunlin_where_am_i_raw(char *buffer, size_t length, uint32_t *written);

__attribute__((import_module("dunlin:agent/mobility"), import_name("migrate-weakly")))
int32_t dunlin_migrate_weakly_raw(const char *destination, size_t length, const void *data, size_t size);

__attribute__((import_module("dunlin:agent/mobility"), import_name("luggage")))
int32_t dunlin_luggage_raw(void *buffer, size_t size, uint32_t *written);

/* Before the function in which a new instance begins that arrives by a weak move: DUNLIN_ARRIVE void arrive(void) { ... } */
#define DUNLIN_ARRIVE __attribute__((export_name("arrive")))

/* Moves this program to the node `destination`. Returns 0 there, or an error here. */
static inline int dunlin_migrate(const char *destination) {
    return dunlin_migrate_raw(destination, strlen(destination));
}

/* Has a new instance of this program begin at the node `destination`, in the function marked DUNLIN_ARRIVE, with these bytes
 * and nothing else of this one, which ends. Returns only if it does not come to that, with an error. */
static inline int dunlin_migrate_weakly(const char *destination, const void *data, size_t size) {
    return dunlin_migrate_weakly_raw(destination, strlen(destination), data, size);
}

/* What the instance before this one packed, cut to the buffer; `*whole` becomes its whole size. Returns 0 or an error. */
static inline int dunlin_luggage(void *buffer, size_t size, size_t *whole) {
    uint32_t written = 0;
    int error = dunlin_luggage_raw(buffer, size, &written);
    *whole = written;
    return error;
}

/* Writes the name of the present node, cut to the buffer, with a zero byte at the end. Returns 0 or an error. */
static inline int dunlin_where_am_i(char *buffer, size_t size) {
    uint32_t written = 0;
    if (size == 0) {
        return DUNLIN_EINVAL;
    }
    int error = dunlin_where_am_i_raw(buffer, size - 1, &written);
    buffer[error ? 0 : (written < size - 1 ? written : size - 1)] = 0;
    return error;
}

#ifdef __cplusplus
}
#endif

#endif
