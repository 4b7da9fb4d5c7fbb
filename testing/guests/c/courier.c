/* `courier NODE...` goes to these nodes, one after the other, with all that it has, and says where it is at each. A node that does
 * not take it is left out. */

#include <stdio.h>

#include "dunlin.h"

/* Where one would begin that travels weakly, as this one does not. */
DUNLIN_ARRIVE void arrive(void) {
    char luggage[16];
    size_t whole = 0;
    printf("arrived with error %d\n", dunlin_luggage(luggage, sizeof luggage, &whole));
}

int main(int argc, char **argv) {
    int visited = 0;
    for (int i = 0; i < argc; i++) {
        char here[64];
        /* The first argument is its own name: it begins where it is. */
        int error = i == 0 ? 0 : dunlin_migrate(argv[i]);
        if (error) {
            printf("%s: error %d\n", argv[i], error);
            fflush(stdout);
            continue;
        }
        visited++;
        if (dunlin_where_am_i(here, sizeof here) != 0) return 99;
        printf("at %s\n", here);
        fflush(stdout);
    }
    return visited;
}
