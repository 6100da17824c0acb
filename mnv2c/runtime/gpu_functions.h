/*
 * The same from and to memory of the GPU, without waiting: the work is put on `stream` (a CUstream or cudaStream_t; null is the
 * default stream), in order with what is there. It allocates nothing, and may be captured into the caller's graph. The
 * context's working memory serves one run at a time: the next one on another stream must be made to wait for this one. The
 * outputs may be read once the stream has come so far; that is also when a failing kernel shows.
 */
int mnv2c_enqueue(mnv2c_context *context, const float *input, /* @outputs@ */, void *stream);
int mnv2c_enqueue_rgb(mnv2c_context *context, const uint8_t *rgb, /* @outputs@ */, void *stream);

