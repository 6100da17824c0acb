/*
 * Runs single kernels on a GPU and compares what they compute: kernels_on_device CUBIN LIST DATA.
 *
 * LIST has a line per kernel: its name, the allowed error, grid and block (six numbers), the number of parameters, and for
 * each of these where its bytes lie in DATA, how many they are, and 0, or for the expected output the bytes of an element.
 * An output is filled with NaN first.
 */
#include <math.h>
#include <string.h>

#include "driver.h"

enum { MOST = 8 };

struct parameter {
    size_t offset, bytes;
    size_t element;
};

/* An element of float32, or of float16: 1 sign, 5 bits of exponent, 10 of mantissa. */
static float element(const char *values, size_t i, size_t bytes)
{
    float single;
    uint16_t half;
    if (bytes == sizeof single) return memcpy(&single, values + i * bytes, bytes), single;
    memcpy(&half, values + i * bytes, bytes);
    int exponent = half >> 10 & 31, mantissa = half & 1023;
    float size = exponent == 31  ? mantissa ? NAN : INFINITY
                 : exponent == 0 ? ldexpf((float)mantissa, -24)
                                 : ldexpf((float)(1024 + mantissa), exponent - 25);
    return half >> 15 ? -size : size;
}

/* The largest error of the output. */
static float largest_error(const char *values, const char *expected, size_t count, size_t bytes)
{
    float largest = 0;
    for (size_t i = 0; i < count; i++) {
        float error = fabsf(element(values, i, bytes) - element(expected, i, bytes));
        if (!(error <= largest)) largest = error;
    }
    return largest;
}

static float run(void *kernel, const unsigned *extents, const struct parameter *parameters, int count, const char *data)
{
    uint64_t memory[MOST];
    void *pointers[MOST];
    float error = NAN;
    for (int i = 0; i < count; i++) {
        char *bytes = malloc(parameters[i].bytes);
        memcpy(bytes, data + parameters[i].offset, parameters[i].bytes);
        if (parameters[i].element) memset(bytes, 0xff, parameters[i].bytes);
        OK(allocate(&memory[i], parameters[i].bytes));
        OK(to_device(memory[i], bytes, parameters[i].bytes, NULL));
        OK(wait_for(NULL));
        free(bytes);
        pointers[i] = &memory[i];
    }
    OK(launch_kernel(kernel, extents[0], extents[1], extents[2], extents[3], extents[4], extents[5], 0, NULL, pointers, NULL));
    OK(wait_for(NULL));
    for (int i = 0; i < count; i++) {
        if (parameters[i].element) {
            size_t element = parameters[i].element;
            char *values = malloc(parameters[i].bytes);
            OK(to_host(values, memory[i], parameters[i].bytes, NULL));
            OK(wait_for(NULL));
            error = largest_error(values, data + parameters[i].offset, parameters[i].bytes / element, element);
            free(values);
        }
        OK(release(memory[i]));
    }
    return error;
}

int main(int count, char **arguments)
{
    size_t bytes;
    void *module, *kernel;
    char name[256];
    float allowed, worst = 0;
    int kernels = 0, wrong = 0, parameters;
    if (count != 4) return fprintf(stderr, "usage: %s CUBIN LIST DATA\n", arguments[0]), 2;
    find_driver();
    char *code = content(arguments[1], &bytes), *data = content(arguments[3], &bytes);
    OK(load_module(&module, code));
    FILE *list = fopen(arguments[2], "r");
    if (list == NULL) return perror(arguments[2]), 1;
    while (fscanf(list, "%255s %f", name, &allowed) == 2) {
        unsigned extents[6];
        struct parameter found[MOST];
        for (int i = 0; i < 6; i++) EXPECT(1, fscanf(list, "%u", &extents[i]));
        EXPECT(1, fscanf(list, "%d", &parameters));
        for (int i = 0; i < parameters; i++)
            EXPECT(3, fscanf(list, "%zu %zu %zu", &found[i].offset, &found[i].bytes, &found[i].element));
        OK(find_kernel(&kernel, module, name));
        float error = run(kernel, extents, found, parameters, data);
        if (!(error <= allowed)) printf("%s: error %g\n", name, error), wrong++;
        if (!(error <= worst)) worst = error;
        kernels++;
    }
    printf("%d kernels, %d wrong, largest error %.2g\n", kernels, wrong, worst);
    return kernels == 0 || wrong != 0;
}
