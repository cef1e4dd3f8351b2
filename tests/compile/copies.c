/* copies.c - three private copies of nn.h in one program train to the same bits */

#include "copies.h"

#include <stdio.h>
#include <string.h>

int main(void) {
    uint32_t bits[3][COPY_OUTPUTS];

    if (copy_c(bits[0]) || copy_plain(bits[1]) || copy_cpp(bits[2])) {
        printf("copies.c: a copy failed\n");
        return 1;
    }
    if (memcmp(bits[0], bits[1], sizeof bits[0]) || memcmp(bits[0], bits[2], sizeof bits[0])) {
        printf("copies.c: the copies disagree\n");
        return 1;
    }
    return 0;
}
