/* Variables: expansion, defaults, literals, cycles, what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>

#include "pipeline/vars.h"

static struct arena arena;
static struct vars vars;
static struct err err;

static int setup(void **state)
{
    (void)state;
    vars_init(&vars, &arena, "m.yaml");
    vars_define(&vars, "a", "1", (struct mark){1, 1}, false);
    vars_define(&vars, "b", "<${a}${a}>", (struct mark){2, 1}, false);
    vars_define(&vars, "self", "${self}", (struct mark){3, 7}, false);
    vars_define(&vars, "raw", "${a}", (struct mark){4, 1}, true);
    setenv("GPTQPIPE_TEST_SET", "value", 1);
    setenv("GPTQPIPE_TEST_EMPTY", "", 1);
    setenv("GPTQPIPE_TEST_BYTES", "caf\xc3\xa9", 1);
    unsetenv("GPTQPIPE_TEST_UNSET");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    vars_release(&vars);
    arena_release(&arena);
    return 0;
}

static void good(void **state)
{
    (void)state;
    static const char *const table[][2] = {
        {"plain $ {} text",                   "plain $ {} text"},
        {"${a}",                              "1"              },
        {"x${b}y${a}",                        "x<11>y1"        },
        {"$${a} $$ $${",                      "${a} $$ ${"     },
        {"${raw}",                            "${a}"           },
        {"${env:GPTQPIPE_TEST_SET}",          "value"          },
        {"${env:GPTQPIPE_TEST_SET:-other}",   "value"          },
        {"${env:GPTQPIPE_TEST_UNSET:-other}", "other"          },
        {"${env:GPTQPIPE_TEST_UNSET:-}",      ""               },
        {"${env:GPTQPIPE_TEST_EMPTY}",        ""               },
        {"${env:GPTQPIPE_TEST_EMPTY:-a:-b}",  "a:-b"           },
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        assert_string_equal(vars_expand(&vars, table[i][0], (struct mark){5, 6}, &err), table[i][1]);
}

static void bad(void **state)
{
    (void)state;
    static const char *const table[][2] = {
        {"${self}",                    "m.yaml:3:7: error: variable 'self' is defined by itself"                         },
        {"${nope}",                    "m.yaml:5:6: error: undefined variable 'nope'"                                    },
        {"${sefl}",                    "m.yaml:5:6: error: undefined variable 'sefl' (did you mean 'self'?)"             },
        {"${a",                        "m.yaml:5:6: error: '${' without '}' (a literal '${' is written '$${')"           },
        {"${}",                        "m.yaml:5:6: error: '${}' is no variable (a literal '${' is written '$${')"       },
        {"${a b}",                     "m.yaml:5:6: error: '${a b}' is no variable (a literal '${' is written '$${')"    },
        {"${env:}",                    "m.yaml:5:6: error: '' is no name of an environment variable"                     },
        {"${env:A-B}",                 "m.yaml:5:6: error: 'A-B' is no name of an environment variable"                  },
        {"${env:GPTQPIPE_TEST_BYTES}", "m.yaml:5:6: error: environment variable 'GPTQPIPE_TEST_BYTES' is not plain ASCII"},
        {"${env:GPTQPIPE_TEST_UNSET}", "m.yaml:5:6: error: environment variable 'GPTQPIPE_TEST_UNSET' is not set (a default is written "
                                       "${env:GPTQPIPE_TEST_UNSET:-default})"      },
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        char text[2048];
        assert_null(vars_expand(&vars, table[i][0], (struct mark){5, 6}, &err));
        assert_string_equal(err_format(&err, text, sizeof text), table[i][1]);
        assert_int_equal(err.code, ERR_MANIFEST);
    }
}

static void a_variable_may_be_used_again_after_a_failure(void **state)
{
    (void)state;
    assert_null(vars_expand(&vars, "${self}", (struct mark){1, 1}, &err));
    assert_null(vars_expand(&vars, "${self}", (struct mark){1, 1}, &err));
    assert_string_equal(vars_expand(&vars, "${b}", (struct mark){1, 1}, &err), "<11>");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(good, setup, teardown),
        cmocka_unit_test_setup_teardown(bad, setup, teardown),
        cmocka_unit_test_setup_teardown(a_variable_may_be_used_again_after_a_failure, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
