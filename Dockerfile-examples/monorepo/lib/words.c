#include "words.h"

#include <ctype.h>

int count_words(const char *text) {
    int count = 0, inside = 0;
    for (; *text; text++) {
        int blank = isspace((unsigned char)*text);
        count += !blank && !inside;
        inside = !blank;
    }
    return count;
}
