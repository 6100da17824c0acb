/*
 * Brings images to the network's size: reads from stdin, for each, a description and its planes, writes to stdout a status
 * and the pixels. A plane is a block of exactly the bytes that are given, so that a sanitizer sees every read beyond.
 */
#include <stdio.h>
#include <stdlib.h>

#include "image.h"

struct description {
    int32_t format, width, height, fit, matrix;
    uint32_t strides[3], bytes[3];
};

static const uint8_t *plane(uint32_t bytes)
{
    if (bytes == 0) return NULL;
    uint8_t *block = malloc(bytes);
    if (block == NULL || fread(block, 1, bytes, stdin) != bytes) exit(1);
    return block;
}

int main(void)
{
    static const uint8_t black[MNV2C_HEIGHT * MNV2C_WIDTH * 3];
    struct mnv2c_fitting *fitting = NULL;
    struct description given;
    while (fread(&given, sizeof given, 1, stdin) == 1) {
        mnv2c_image image = {given.format, given.width, given.height, {NULL}, {0}, given.fit, given.matrix};
        for (int i = 0; i < 3; i++) image.planes[i] = plane(given.bytes[i]);
        for (int i = 0; i < 3; i++) image.strides[i] = given.strides[i];
        const uint8_t *rgb = black;
        int32_t status = mnv2c_fit_images(&fitting, &image, &rgb);
        fwrite(&status, sizeof status, 1, stdout);
        fwrite(rgb, 1, sizeof black, stdout);
        for (int i = 0; i < 3; i++) free((void *)image.planes[i]);
    }
    free(fitting);
    return 0;
}
