/* A ledger in a SQLite database file, with SQLite's own POSIX layer and a rollback journal.
 *
 * `database DIR ROUNDS` goes on until ROUNDS rounds have been committed since the file was made, however often it was
 * interrupted meanwhile: each round moves money between accounts in one transaction. It prints a line after each
 * commit, and at the end what the integrity check says and the sum of all accounts, which never changes. */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sqlite3.h"

enum { ACCOUNTS = 200, MOVES = 25 };

static sqlite3 *db;

static void fail(const char *what) {
    fprintf(stderr, "database: %s in: %s\n", sqlite3_errmsg(db), what);
    exit(1);
}

static void execute(const char *sql) {
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK) fail(sql);
}

/* The first column of the first row, as a number, or as text into `text`. */
static int64_t ask(const char *sql, char *text, size_t size) {
    sqlite3_stmt *statement;
    if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) != SQLITE_OK) fail(sql);
    if (sqlite3_step(statement) != SQLITE_ROW) fail(sql);
    int64_t number = sqlite3_column_int64(statement, 0);
    if (text) snprintf(text, size, "%s", (const char *)sqlite3_column_text(statement, 0));
    if (sqlite3_finalize(statement) != SQLITE_OK) fail(sql);
    return number;
}

static void create(void) {
    char sql[256];
    execute("BEGIN");
    execute("CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)");
    execute("CREATE TABLE move(id INTEGER PRIMARY KEY, round INTEGER, source INTEGER, target INTEGER, amount INTEGER, note TEXT)");
    execute("CREATE INDEX move_source ON move(source, round)");
    execute("CREATE TABLE state(rounds INTEGER NOT NULL)");
    execute("INSERT INTO state VALUES (0)");
    snprintf(sql, sizeof sql,
             "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < %d) "
             "INSERT INTO account SELECT i, 1000 FROM n", ACCOUNTS - 1);
    execute(sql);
    execute("COMMIT");
}

static void play_round(int64_t round) {
    char sql[512];
    uint32_t random = (uint32_t)round * 2654435761u + 12345u;
    execute("BEGIN IMMEDIATE");
    for (int i = 0; i < MOVES; i++) {
        random = random * 1664525u + 1013904223u;
        unsigned source = (random >> 8) % ACCOUNTS, target = (random >> 16) % ACCOUNTS, amount = random >> 28;
        snprintf(sql, sizeof sql,
                 "UPDATE account SET balance = balance - %u WHERE id = %u; UPDATE account SET balance = balance + %u WHERE id = %u; "
                 "INSERT INTO move(round, source, target, amount, note) VALUES (%" PRId64 ", %u, %u, %u, printf('%%.*c', %u, 'x'))",
                 amount, source, amount, target, round, source, target, amount, 20 + random % 200);
        execute(sql);
    }
    /* What is old goes, so that pages are used again. */
    snprintf(sql, sizeof sql, "DELETE FROM move WHERE round < %" PRId64 "; UPDATE state SET rounds = %" PRId64, round - 20, round);
    execute(sql);
    execute("COMMIT");
    printf("round %" PRId64 "\n", round);
    fflush(stdout);
}

int main(int argc, char **argv) {
    char path[1024], verdict[256];
    const char *journal = argc == 4 ? argv[3] : "TRUNCATE";
    if (argc < 3 || argc > 4 || (strcmp(journal, "TRUNCATE") && strcmp(journal, "DELETE"))) {
        fprintf(stderr, "usage: database DIR ROUNDS [TRUNCATE|DELETE]\n");
        return 2;
    }
    snprintf(path, sizeof path, "%s/ledger.db", argv[1]);
    int64_t rounds = strtoll(argv[2], NULL, 10);
    // Nobody else has these files, and the lock of this platform is a file that a killed program leaves behind.
    // The end of the host's process is to a volume what a loss of power is to a disk. The end of the journal is the commit:
    // its truncation is brought to the disk, its deletion only by a sync of the directory, which EXTRA asks for.
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
    if (sqlite3_open_v2(path, &db, flags, "unix-none") != SQLITE_OK) fail("open");
    snprintf(path, sizeof path, "PRAGMA journal_mode = %s; PRAGMA synchronous = EXTRA; PRAGMA cache_size = 20", journal);
    execute(path);
    if (ask("SELECT count(*) FROM sqlite_master", NULL, 0) == 0) create();
    for (int64_t round = ask("SELECT rounds FROM state", NULL, 0) + 1; round <= rounds; round++) play_round(round);
    ask("PRAGMA integrity_check", verdict, sizeof verdict);
    printf("%s after %" PRId64 " rounds, sum %" PRId64 ", moves %" PRId64 "\n", verdict, ask("SELECT rounds FROM state", NULL, 0),
           ask("SELECT sum(balance) FROM account", NULL, 0), ask("SELECT count(*) + sum(amount) FROM move", NULL, 0));
    if (sqlite3_close(db) != SQLITE_OK) fail("close");
    return strcmp(verdict, "ok") != 0;
}
