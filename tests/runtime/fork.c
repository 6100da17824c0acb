/* A context of one thread and one of three, in a child of fork: prints what each step returns, and ends. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mnv2_0_35.h"

static float input[MNV2_0_35_HEIGHT * MNV2_0_35_WIDTH * MNV2_0_35_CHANNELS], logits[MNV2_0_35_LOGITS_SIZE];

static int child(mnv2_0_35_context *parents)
{
    mnv2_0_35_options options = MNV2_0_35_OPTIONS_INIT;
    mnv2_0_35_context *context = NULL;
    alarm(20);
    printf("%d", mnv2_0_35_run(parents, input, logits));
    printf(" %d", mnv2_0_35_observe(parents, NULL, NULL));
    options.share_threads_with = parents;
    printf(" %d", mnv2_0_35_create(&options, &context));
    mnv2_0_35_destroy(context);
    options.share_threads_with = NULL;
    options.threads = 3;
    printf(" %d", mnv2_0_35_create(&options, &context));
    printf(" %d\n", mnv2_0_35_run(context, input, logits));
    mnv2_0_35_destroy(context);
    mnv2_0_35_destroy(parents);
    fflush(stdout);
    return 0;
}

int main(void)
{
    for (int threads = 1; threads <= 3; threads += 2) {
        mnv2_0_35_options options = MNV2_0_35_OPTIONS_INIT;
        mnv2_0_35_context *context;
        options.threads = threads;
        if (mnv2_0_35_create(&options, &context) != MNV2_0_35_OK) return 1;
        if (mnv2_0_35_run(context, input, logits) != MNV2_0_35_OK) return 1;
        int status;
        pid_t process = fork();
        if (process == 0) exit(child(context));
        if (waitpid(process, &status, 0) != process || status != 0) return 2;
        if (mnv2_0_35_run(context, input, logits) != MNV2_0_35_OK) return 3;
        mnv2_0_35_destroy(context);
    }
    return 0;
}
