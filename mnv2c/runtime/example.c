/*
 * Classifies a raw RGB image: main IMAGE.rgb [LABELS.txt] (labels: one line per class).
 *
 * The image is MNV2C_HEIGHT rows of MNV2C_WIDTH pixels, a byte each for R, G and B. To make one of a photograph, as
 * ImageNet networks are evaluated: turn it upright (EXIF), resize it with an antialiasing filter, its aspect ratio kept,
 * until it just covers MNV2C_WIDTH / 0.875 by MNV2C_HEIGHT / 0.875 (256 by 256 for 224 by 224), and cut out the middle.
 * With ImageMagick, for 224 by 224:
 *
 *     magick photo.jpg -auto-orient -resize 256x256^ -gravity center -extent 224x224 -depth 8 rgb:image.rgb
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mnv2c.h"

enum { IMAGE = MNV2C_HEIGHT * MNV2C_WIDTH * MNV2C_CHANNELS };

static uint8_t rgb[MNV2C_BATCH * IMAGE]; /* the image is the first of the batch */
/* @buffers@ */
static char labels[MNV2C_CLASSES][256];

static int fail(const char *subject, const char *message)
{
    fprintf(stderr, "%s: %s\n", subject, message);
    return EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    if (argc != 2 && argc != 3) return fail("usage", "main IMAGE.rgb [LABELS.txt]");
    FILE *file = fopen(argv[1], "rb");
    size_t read = file ? fread(rgb, 1, IMAGE, file) : 0;
    if (read != IMAGE || fgetc(file) != EOF) return fail(argv[1], "is not a file of height * width * 3 bytes");
    fclose(file);
    file = argc == 3 ? fopen(argv[2], "r") : NULL;
    if (argc == 3 && file == NULL) return fail(argv[2], "cannot be read");
    for (int i = 0; file != NULL && i < MNV2C_CLASSES && fscanf(file, "%255[^\n]%*[^\n]", labels[i]) != EOF; i++) {
        labels[i][strcspn(labels[i], "\r")] = '\0';
        fgetc(file); /* the end of the line, whose rest after 255 bytes is left out */
    }
    if (file != NULL) fclose(file);

    mnv2c_context *context;
    int status = mnv2c_create(NULL, &context);
    if (status == MNV2C_OK) status = mnv2c_run_rgb(context, rgb, /* @arguments@ */);
    mnv2c_destroy(context);
    if (status != MNV2C_OK) return fail(argv[0], mnv2c_message(status));

    /* @softmax@ */
    float sum = 0, best = logits[0];
    for (int i = 0; i < MNV2C_CLASSES; i++) best = logits[i] > best ? logits[i] : best;
    for (int i = 0; i < MNV2C_CLASSES; i++) sum += logits[i] = expf(logits[i] - best); /* softmax, but for the division */
    /* @end of softmax@ */
    for (int rank = 0; rank < 5 && rank < MNV2C_CLASSES; rank++) {
        int top = 0;
        for (int i = 1; i < MNV2C_CLASSES; i++) top = logits[i] > logits[top] ? i : top;
        printf("%4d %6.4f %s\n", top, logits[top] / sum, labels[top]);
        logits[top] = -1;
    }
    return EXIT_SUCCESS;
}
