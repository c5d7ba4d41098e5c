/* pipeline: plan and apply with fake stages: reasons, early cutoff, chains, targets, force, failures, signals, the frozen lock, sources that change. */
#include "pipe_test.h"

#define ALL_RUN                                                                                                                                                  \
    "run model/index;run calib;open w4;run w4/layer.0;run w4/layer.1;run w4/layer.2;run w4/layer.3;close w4;run ckpt;finish ckpt;run quality;run hello;"

static void first_plan_then_apply_then_nothing(void **state)
{
    (void)state;
    assert_plan("model run no-record|model/index run no-record|text run no-record|calib maybe upstream-pending|w4/layer.0 maybe upstream-pending|"
                "w4/layer.1 maybe upstream-pending|w4/layer.2 maybe upstream-pending|w4/layer.3 maybe upstream-pending|ckpt maybe upstream-pending|"
                "quality maybe upstream-pending|hello maybe upstream-pending|");
    assert_apply(0, "ran 11 hit 0");
    assert_string_equal(buf_str(&story), ALL_RUN);
    assert_plan("model hit hit-local|model/index hit hit-local|text hit hit-local|calib hit hit-local|w4/layer.0 hit hit-local|w4/layer.1 hit hit-local|"
                "w4/layer.2 hit hit-local|w4/layer.3 hit hit-local|ckpt hit hit-local|quality hit hit-local|hello hit hit-local|");
    assert_apply(0, "ran 0 hit 11");
    assert_string_equal(buf_str(&story), "finish ckpt;");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(first_plan_then_apply_then_nothing, make_root, drop_root),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
