/* A day of a small shop in SQLite, in memory: tables, thousands of rows, indexes, joins, aggregates, updates, deletes,
 * a transaction rolled back, text search. `sqlite SIZE` prints what the queries found.
 * Export: run_sqlite(size, repeat) -> checksum, which prints nothing. */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "sqlite3.h"

static int verbose;
static uint64_t checksum;

static void fail(sqlite3 *db, const char *sql) {
    fprintf(stderr, "sqlite: %s in: %s\n", sqlite3_errmsg(db), sql);
    exit(1);
}

static void mix(const unsigned char *text) {
    for (; text && *text; text++) checksum = (checksum ^ *text) * UINT64_C(0x100000001b3);
    checksum = (checksum ^ '|') * UINT64_C(0x100000001b3);
}

/* Prepares and steps one statement to its end; every value of every row goes into the checksum. */
static void query(sqlite3 *db, const char *title, const char *sql) {
    sqlite3_stmt *statement;
    if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) != SQLITE_OK) fail(db, sql);
    int rows = 0, status;
    while ((status = sqlite3_step(statement)) == SQLITE_ROW) {
        rows++;
        for (int column = 0; column < sqlite3_column_count(statement); column++) mix(sqlite3_column_text(statement, column));
    }
    if (status != SQLITE_DONE) fail(db, sql);
    sqlite3_finalize(statement);
    if (verbose) printf("%s: %d rows, %016" PRIx64 "\n", title, rows, checksum);
}

static void insert_orders(sqlite3 *db, int size) {
    static const char sql[] = "INSERT INTO orders(customer, item, amount, price, note) VALUES (?, ?, ?, ?, ?)";
    static const char *words[] = {"urgent", "gift", "fragile", "second try", "paid in cash", "ask the neighbour"};
    sqlite3_stmt *statement;
    if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) != SQLITE_OK) fail(db, sql);
    uint32_t random = 12345;
    for (int i = 0; i < size; i++) {
        random = random * 1664525u + 1013904223u;
        char note[64];
        snprintf(note, sizeof note, "%s, box %u", words[(random >> 20) % 6], random >> 24);
        sqlite3_bind_int(statement, 1, (int)((random >> 8) % (unsigned)(size / 10 + 1)) + 1);
        sqlite3_bind_int(statement, 2, (int)((random >> 16) % 97) + 1);
        sqlite3_bind_int(statement, 3, (int)(random >> 28) + 1);
        sqlite3_bind_double(statement, 4, ((random >> 12) % 10000) / 4.0);
        sqlite3_bind_text(statement, 5, note, -1, SQLITE_TRANSIENT);
        if (sqlite3_step(statement) != SQLITE_DONE) fail(db, sql);
        sqlite3_reset(statement);
    }
    sqlite3_finalize(statement);
}

static void day(int size) {
    sqlite3 *db;
    char sql[256];
    if (sqlite3_open(":memory:", &db) != SQLITE_OK) fail(db, "open");
    query(db, "create customers", "CREATE TABLE customers(id INTEGER PRIMARY KEY, name TEXT NOT NULL, city TEXT)");
    query(db, "create orders",
          "CREATE TABLE orders(id INTEGER PRIMARY KEY, customer INTEGER, item INTEGER, amount INTEGER, price REAL, note TEXT)");
    snprintf(sql, sizeof sql,
             "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i <= %d) "
             "INSERT INTO customers SELECT i, 'customer ' || hex(i * 7919), 'city ' || (i %% 13) FROM n", size / 10);
    query(db, "insert customers", sql);
    query(db, "begin", "BEGIN");
    insert_orders(db, size);
    query(db, "commit", "COMMIT");
    query(db, "index", "CREATE INDEX by_customer ON orders(customer, item)");
    query(db, "join",
          "SELECT city, count(*), sum(amount * price), max(price) FROM orders JOIN customers ON customer = customers.id "
          "GROUP BY city ORDER BY city");
    query(db, "best",
          "SELECT name, (SELECT total(amount) FROM orders WHERE customer = customers.id) AS bought FROM customers "
          "ORDER BY bought DESC, name LIMIT 10");
    query(db, "window",
          "SELECT item, price, rank() OVER (PARTITION BY item ORDER BY price DESC, id) AS place FROM orders "
          "ORDER BY place, item LIMIT 20");
    query(db, "like", "SELECT count(*), group_concat(DISTINCT item % 7) FROM orders WHERE note LIKE '%gift%box 1%'");
    query(db, "update", "UPDATE orders SET price = price * 1.25, note = upper(note) WHERE item % 3 = 0");
    query(db, "rollback, begin", "BEGIN");
    query(db, "rollback, delete", "DELETE FROM orders");
    query(db, "rollback", "ROLLBACK");
    query(db, "delete", "DELETE FROM orders WHERE amount < 4");
    query(db, "totals", "SELECT count(*), sum(amount), total(price), avg(length(note)) FROM orders");
    query(db, "check", "PRAGMA integrity_check");
    if (sqlite3_close(db) != SQLITE_OK) fail(db, "close");
}

__attribute__((export_name("run_sqlite"))) int64_t run_sqlite(int32_t size, int32_t repeat) {
    checksum = UINT64_C(0xcbf29ce484222325);
    for (int i = 0; i < repeat; i++) day(size);
    return (int64_t)checksum;
}

int main(int argc, char **argv) {
    verbose = 1;
    printf("SQLite %s\n", sqlite3_libversion());
    printf("checksum %016" PRIx64 "\n", (uint64_t)run_sqlite(argc > 1 ? atoi(argv[1]) : 100, 1));
    return 0;
}
