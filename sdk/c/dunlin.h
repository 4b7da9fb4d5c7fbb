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
#define DUNLIN_EHOSTUNREACH 23 /* the move was refused, or it failed: the program is where it was */
#define DUNLIN_EINVAL 28       /* the destination is empty or longer than 256 bytes */
#define DUNLIN_ENOTSUP 58      /* nothing moves programs here */

__attribute__((import_module("dunlin:agent/mobility"), import_name("migrate")))
int32_t dunlin_migrate_raw(const char *destination, size_t length);

__attribute__((import_module("dunlin:agent/mobility"), import_name("where-am-i")))
int32_t dunlin_where_am_i_raw(char *buffer, size_t length, uint32_t *written);

/* Moves this program to the node `destination`. Returns 0 there, or an error here. */
static inline int dunlin_migrate(const char *destination) {
    return dunlin_migrate_raw(destination, strlen(destination));
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
