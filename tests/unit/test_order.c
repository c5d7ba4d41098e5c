/* Column orders, on examples worked by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "stages/quant/order.h"

static void expect_perm(const int64_t *perm, const int64_t *want, int64_t K)
{
    for (int64_t i = 0; i < K; i++)
        assert_int_equal(perm[i], want[i]);
}

static void identity(void **state)
{
    int64_t perm[4];
    (void)state;
    order_identity(4, perm);
    expect_perm(perm, (const int64_t[]){0, 1, 2, 3}, 4);
}

static void descending_is_stable(void **state)
{
    const double diag[] = {1, 5, 2, 5, 0, 2};
    int64_t perm[6];
    (void)state;
    order_descending(diag, 6, perm);
    expect_perm(perm, (const int64_t[]){1, 3, 2, 5, 0, 4}, 6);
}

static void groups_by_their_largest(void **state)
{
    /* groups of 3: (1 2 3) (9 0 9) (4 4 9), tail (100 200) */
    const double diag[] = {1, 2, 3, 9, 0, 9, 4, 4, 9, 100, 200};
    int64_t perm[11];
    (void)state;
    order_group_aware(diag, 11, 3, perm);
    expect_perm(perm, (const int64_t[]){3, 5, 4, 8, 6, 7, 2, 1, 0, 9, 10}, 11);
}

static void group_larger_than_all(void **state)
{
    const double diag[] = {1, 2, 3};
    int64_t perm[3];
    (void)state;
    order_group_aware(diag, 3, 2000000000, perm);
    expect_perm(perm, (const int64_t[]){0, 1, 2}, 3);
}

static void groups_of_one(void **state)
{
    const double diag[] = {1, 7, 3};
    int64_t perm[3];
    (void)state;
    order_group_aware(diag, 3, 1, perm);
    expect_perm(perm, (const int64_t[]){1, 2, 0}, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(identity),
        cmocka_unit_test(descending_is_stable),
        cmocka_unit_test(groups_by_their_largest),
        cmocka_unit_test(group_larger_than_all),
        cmocka_unit_test(groups_of_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
