#include "memory.h"

#include <curl/curl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

const char *__asan_default_options(void);

/* To have malloc fail as it does without ASan. */
const char *__asan_default_options(void)
{
    return "allocator_may_return_null=1";
}

static void what_libcurl_does_not_get_is_counted(void **state)
{
    (void)state;
    assert_int_equal(memory_init(), 0);
    CURL *easy = curl_easy_init();
    assert_non_null(easy);
    assert_int_equal(curl_easy_setopt(easy, CURLOPT_COPYPOSTFIELDS, "text"), CURLE_OK);
    unsigned long before = memory_failures();

    const curl_off_t more_than_there_is = (curl_off_t)1 << 46;
    assert_int_equal(curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, more_than_there_is),
                     CURLE_OK);
    assert_int_equal(curl_easy_setopt(easy, CURLOPT_COPYPOSTFIELDS, "text"), CURLE_OUT_OF_MEMORY);
    assert_int_equal(memory_failures(), before + 1);

    curl_easy_cleanup(easy);
    curl_global_cleanup();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_libcurl_does_not_get_is_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
