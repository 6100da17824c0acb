/* image.c, which makes the network's input of images of any size and format. Not for the library's users. */
#ifndef MNV2C_IMAGE_H
#define MNV2C_IMAGE_H

/* All is compiled with -fvisibility=hidden but the interface. */
#pragma GCC visibility push(default)
#include "mnv2c.h"
#pragma GCC visibility pop

/* A context's memory for that: null before its first image; for free() at its end. */
struct mnv2c_fitting;

/* Scales MNV2C_BATCH images to the network's size. *rgb, as mnv2c_run_rgb takes it, lies in *fitting and is valid until the
 * next call. On failure it is not changed. */
int mnv2c_fit_images(struct mnv2c_fitting **fitting, const mnv2c_image *images, const uint8_t **rgb);

/* One line for a status of this file; null for any other. */
const char *mnv2c_image_message(int status);

#endif
