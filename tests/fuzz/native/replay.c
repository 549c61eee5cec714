/* Runs the input files that are named on the command line, without libFuzzer. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int main(int count, char **names)
{
    for (int at = 1; at < count; at++) {
        static uint8_t data[1 << 20];
        FILE *file = fopen(names[at], "rb");
        size_t size = file ? fread(data, 1, sizeof data, file) : 0;
        /* This block has the size of the input, so that AddressSanitizer detects reads beyond the input. */
        uint8_t *exact = malloc(size ? size : 1);

        if (!file || !exact) {
            perror(names[at]);
            return 2;
        }
        fclose(file);
        for (size_t each = 0; each < size; each++)
            exact[each] = data[each];
        fprintf(stderr, "%s\n", names[at]);
        LLVMFuzzerTestOneInput(exact, size);
        free(exact);
    }
    return 0;
}
