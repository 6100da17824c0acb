/*
 * Runs the library for a program on another machine: runner THREADS [INSTRUCTION_SET]. Answers first whether a context
 * could be created, then reads requests from stdin and writes answers to stdout until stdin ends. All numbers are
 * little-endian; mnv2c/deploy/peer.py is the other side. mnv2c/deploy/runner.py puts two definitions in front of this text:
 * OUTPUT_COUNT, and OUTPUTS, the arguments of mnv2c_run that say where each goes.
 */
#define _POSIX_C_SOURCE 200809L /* clock_gettime */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "mnv2c.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the protocol is little-endian, as every machine that libraries are built for"
#endif

struct request { /* the image follows: float or, where rgb is not 0, uint8_t */
    uint32_t rgb;
    uint32_t observe; /* not 0: an answer per layer comes before the run's own */
};

/* `payload` bytes follow. OK: at first a line of words, the instruction set and the number of threads in use, the shapes of the
 * input and of each output (1x224x224x3); then the outputs, one after the other. Otherwise: the status in words. */
struct answer {
    uint32_t magic;
    int32_t status;
    uint64_t nanoseconds;
    uint64_t payload;
};

/* Begins the payload of a layer's answer; its values without the border, then its name, follow. */
struct layer {
    uint64_t macs;
    int64_t shape[4];
    uint64_t element_bytes;
};

enum { ANSWER = 0x4132766d, LAYER = 0x4c32766d }; /* "mv2A", "mv2L" */

static float *tensors[1 + OUTPUT_COUNT]; /* the input, and each output */

static size_t floats(int tensor)
{
    int64_t shape[4];
    int rank = mnv2c_shape(tensor, shape);
    size_t product = rank > 0;
    for (int i = 0; i < rank; i++) product *= (size_t)shape[i];
    return product;
}

static void put(const void *data, size_t size)
{
    if (fwrite(data, 1, size, stdout) != size) exit(EXIT_FAILURE); /* the reader has gone */
}

static void put_answer(int status, uint64_t nanoseconds, const void *payload, size_t size)
{
    struct answer answer = {ANSWER, status, nanoseconds, size};
    put(&answer, sizeof answer);
    put(payload, size);
    if (fflush(stdout) != 0) exit(EXIT_FAILURE);
}

static void put_hello(const mnv2c_context *context)
{
    char *text = NULL;
    size_t size = 0;
    int64_t shape[4];
    FILE *stream = open_memstream(&text, &size);
    if (stream == NULL) exit(EXIT_FAILURE);
    fprintf(stream, "%s %d", mnv2c_instruction_set(context), mnv2c_threads(context));
    for (int tensor = 0, rank; (rank = mnv2c_shape(tensor, shape)) > 0; tensor++)
        for (int i = 0; i < rank; i++) fprintf(stream, "%c%" PRId64, i == 0 ? ' ' : 'x', shape[i]);
    if (fclose(stream) != 0) exit(EXIT_FAILURE);
    put_answer(MNV2C_OK, 0, text, size);
    free(text);
}

static void put_outputs(uint64_t nanoseconds)
{
    struct answer answer = {ANSWER, MNV2C_OK, nanoseconds, 0};
    for (int i = 1; i <= OUTPUT_COUNT; i++) answer.payload += floats(i) * sizeof(float);
    put(&answer, sizeof answer);
    for (int i = 1; i <= OUTPUT_COUNT; i++) put(tensors[i], floats(i) * sizeof(float));
    if (fflush(stdout) != 0) exit(EXIT_FAILURE);
}

static void put_failure(int status) { put_answer(status, 0, mnv2c_message(status), strlen(mnv2c_message(status))); }

static void put_layer(void *user, const mnv2c_layer *layer)
{
    (void)user;
    const int64_t *shape = layer->shape, *strides = layer->strides;
    struct layer about = {layer->macs, {shape[0], shape[1], shape[2], shape[3]}, strcmp(layer->element, "float16") ? sizeof(float) : 2};
    const char *values = layer->data;
    uint64_t count = (uint64_t)(shape[0] * shape[1] * shape[2] * shape[3]);
    struct answer answer = {LAYER, MNV2C_OK, layer->nanoseconds, 0};
    answer.payload = sizeof about + count * about.element_bytes + strlen(layer->name);
    put(&answer, sizeof answer);
    put(&about, sizeof about);
    for (int64_t n = 0; n < shape[0]; n++)
        for (int64_t h = 0; h < shape[1]; h++)
            for (int64_t w = 0; w < shape[2]; w++)
                for (int64_t c = 0; c < shape[3]; c++)
                    put(values + (n * strides[0] + h * strides[1] + w * strides[2] + c * strides[3]) * (int64_t)about.element_bytes,
                        about.element_bytes);
    put(layer->name, strlen(layer->name));
}

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void serve(mnv2c_context *context)
{
    struct request request;
    while (fread(&request, sizeof request, 1, stdin) == 1) {
        size_t size = floats(0) * (request.rgb ? 1 : sizeof(float));
        if (fread(tensors[0], 1, size, stdin) != size) return;
        int status = mnv2c_observe(context, request.observe ? put_layer : NULL, NULL);
        uint64_t start = now();
        if (status == MNV2C_OK)
            status = request.rgb ? mnv2c_run_rgb(context, (const uint8_t *)tensors[0], OUTPUTS)
                                 : mnv2c_run(context, tensors[0], OUTPUTS);
        uint64_t nanoseconds = now() - start;
        if (status == MNV2C_OK)
            put_outputs(nanoseconds);
        else
            put_failure(status);
    }
}

int main(int argc, char **argv)
{
    mnv2c_options options = MNV2C_OPTIONS_INIT;
    mnv2c_context *context;
    options.threads = argc > 1 ? atoi(argv[1]) : 0;
    options.instruction_set = argc > 2 ? argv[2] : NULL;
    int status = mnv2c_create(&options, &context);
    if (status != MNV2C_OK) {
        put_failure(status);
        return EXIT_SUCCESS;
    }
    for (int i = 0; i <= OUTPUT_COUNT; i++)
        if ((tensors[i] = aligned_alloc(64, (floats(i) * sizeof(float) + 63) / 64 * 64)) == NULL) return EXIT_FAILURE;
    put_hello(context);
    serve(context);
    mnv2c_destroy(context);
    return EXIT_SUCCESS;
}
