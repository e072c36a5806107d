/* SPDX-License-Identifier: MIT */
/*
 * Words for a shell: whatever the text, a shell makes exactly that of it.
 */
#include "../../tools/common/shell.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

TestSuite(shell);

Test(shell, what_is_plain_stays)
{
    static const char *const texts[] = {
        "eth0",         "/run/fixport/pool", "a=b",   "10.0.0.0/8,10.9.0.1",
        "fe80::1%eth0", "kube-system",       "@x+y_z"};
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        char *word = shell_quoted(texts[i]);
        cr_expect_str_eq(word, texts[i]);
        free(word);
    }
}

Test(shell, what_is_not_is_quoted)
{
    static const char *const texts[][2] = {
        {"", "''"},           {"a;id", "'a;id'"},         {"a b", "'a b'"},
        {"$(id)", "'$(id)'"}, {"~root", "'~root'"},       {"it's", "'it'\\''s'"},
        {"'", "''\\'''"},     {"a\nb", "'a\nb'"},         {"#x", "'#x'"},
        {"{a,b}", "'{a,b}'"}, {"\xc3\xa4", "'\xc3\xa4'"}, {"!!", "'!!'"},
    };
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        char *word = shell_quoted(texts[i][0]);
        cr_expect_str_eq(word, texts[i][1]);
        free(word);
    }
}

/* The shell itself is asked, about each byte and about some at random. */
Test(shell, a_shell_reads_the_same, .timeout = 60)
{
    char text[64], command[400], back[sizeof(text)];
    srand(1);
    for (int turn = 1; turn < 400; turn++) {
        size_t length = turn < 256 ? 1 : 1 + (size_t)rand() % 40;
        for (size_t i = 0; i < length; i++)
            text[i] = (char)(turn < 256 ? turn : "'\"\\$`;&|<>()*?[]{}~!# \t\nab"[rand() % 26]);
        text[length] = '\0';
        char *word = shell_quoted(text);
        snprintf(command, sizeof(command), "printf %%s. %s", word);
        FILE *shell = popen(command, "re");
        cr_assert_neq(shell, NULL);
        size_t got = fread(back, 1, sizeof(back), shell);
        pclose(shell);
        cr_assert_eq(got, length + 1, "%s", word);
        cr_expect_eq(memcmp(back, text, length), 0, "%s", word);
        free(word);
    }
}
