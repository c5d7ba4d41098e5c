/* One of the checks of check_class.cuh, which includes it once: launches behind each other. */

/* Products of many shapes and both bit widths, one launch behind the other without a synchronization between, each a dependent of the one before, all on one workspace: the
 * bits that each gives alone. */
static void check_queue(bool small)
{
    static const int64_t shapes[][2] = {{1024, 2048}, {192, 4096}, {4096, 1024}, {640, 640}, {77, 1536}, {2048, 8192}};
    static const int Ms[] = {1, 16, 40, 100}, steps[] = {1, 5, 7, 11, 13, 17, 19, 23}; /* without a factor in common with the number of launches, 32 or 96 */
    enum { SHAPES = 6, MS = 4, MODES = 2, CALLS = 2 * SHAPES * MS * MODES };
    static struct problem problems[2 * SHAPES];
    static struct queued {
        const struct problem *p;
        struct config c;
        struct output alone, behind;
        int M;
    } queue[CALLS];
    const int shape_count = small ? 2 : SHAPES, rounds = small ? 2 : 8;
    int count = 0, n = 0;
    for (int i = 0; i < 2 * shape_count; i++) {
        struct problem *p = &problems[count++];
        *p = simple(shapes[i / 2][0] / (small ? 8 : 1), shapes[i / 2][1] / (small ? 4 : 1), i % 2 ? 8 : 4, i % 3 ? MARLIN_BF16 : MARLIN_F16, 100, 0.02f);
        for (int j = 0; j < MS * MODES; j++) {
            struct queued *q = &queue[n++];
            *q = {p, class_choose(&p->packed, Ms[j / MODES], (enum marlin_mode)(j % MODES)), output_new(p, Ms[j / MODES], true), output_new(p, Ms[j / MODES], true), Ms[j / MODES]};
            const struct class_call call = call_of(p, q->M, &q->alone, true);
            launch(p, &q->c, &call, NULL);
            finish();
        }
    }
    unsigned long long bad = 0;
    for (int r = 0; r < rounds; r++) {
        for (int i = 0; i < n; i++)
            CUDA(cudaMemset(queue[i].behind.y, 0xff, queue[i].behind.bytes));
        CUDA(cudaDeviceSynchronize());
        for (int i = 0; i < n; i++) { /* each round has other neighbours */
            const struct queued *q = &queue[i * steps[r] % n];
            struct class_call call = call_of(q->p, q->M, &q->behind, true);
            call.pdl = true;
            launch(q->p, &q->c, &call, NULL);
        }
        finish();
        for (int i = 0; i < n; i++)
            bad += different(queue[i].alone.y, queue[i].behind.y, queue[i].alone.bytes);
    }
    tap(bad == 0 && class_clean(0), "%d launches of %d matrices behind each other, %d rounds: %llu bytes differ from each alone", n, count, rounds, bad);
    for (int i = 0; i < n; i++) {
        CUDA(cudaFree(queue[i].alone.all));
        CUDA(cudaFree(queue[i].behind.all));
    }
    for (int i = 0; i < count; i++)
        problem_free(&problems[i]);
}
