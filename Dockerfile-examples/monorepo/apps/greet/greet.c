#include <stdio.h>

#include "../../lib/words.h"

int main(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "whoever you are";
    printf("hello %s, a name of %d words\n", name, count_words(name));
    return 0;
}
