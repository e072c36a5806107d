/* SPDX-License-Identifier: MIT */
/*
 * How the tools speak: one line for an error, text from a pool made harmless, progress on stderr.
 *
 * Whatever any process of the node wrote into the pool ends up on an administrator's terminal, so
 * it is cleaned here: no escape sequences, nothing that reorders or hides what stands around it.
 */
#include "say.h"

#include "../../pool/pool.h"
#include "../../pool/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <langinfo.h>
#include <limits.h>
#include <locale.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>
#include <wchar.h>

#define PROGRESS_AFTER_MS 2000
#define PROGRESS_EVERY_MS 200

static const char *program_name = "fixport";
static int bad_input_status = EXIT_BAD_INPUT;

/* The pool's file may shrink while it is mapped; nothing can be saved then but the explanation. */
static void say_sigbus(int signal)
{
    static const char text[] = ": the pool was truncated under us\n";
    (void)signal;
    if (write(STDERR_FILENO, program_name, strlen(program_name)) > 0 &&
        write(STDERR_FILENO, text, sizeof(text) - 1) > 0)
        _exit(EXIT_FAILED);
    _exit(EXIT_FAILED);
}

/*
 * Who was started without one of the standard streams would get its number for the next file that
 * is opened: what is said would go into a pool, a lock, or a manifest. stdin and stdout are filled
 * such that using them still fails (as coreutils' stdopen does), stderr such that what is said goes
 * nowhere. A program that fixport-run starts gets none of that: for it they are missing as before.
 */
static void streams_fill(void)
{
    static const int modes[] = {O_WRONLY, O_RDONLY, O_RDWR};
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", modes[fd] | O_CLOEXEC) != fd)
            _exit(EXIT_FAILED);
}

void say_begin(const char *program, int bad_input)
{
    struct sigaction action = {.sa_handler = say_sigbus};
    streams_fill();
    program_name = program;
    bad_input_status = bad_input;
    setlocale(LC_CTYPE, "");
    sigaction(SIGBUS, &action, NULL);
}

static char late[64];

static void say_late(int signal)
{
    (void)signal;
    if (write(STDERR_FILENO, program_name, strlen(program_name)) > 0)
        (void)!write(STDERR_FILENO, late, strlen(late));
    _exit(EXIT_FAILED);
}

/* With a timer and a signal of its own: a program that is executed later finds nothing changed. */
void say_limit(unsigned seconds)
{
    static timer_t timer;
    static struct sigaction before;
    static sigset_t mask;
    static bool on;
    struct sigaction action = {.sa_handler = say_late};
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMAX};
    struct itimerspec time = {.it_value.tv_sec = seconds};
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMAX);
    if (on) {
        timer_delete(timer);
        sigaction(SIGRTMAX, &before, NULL);
        sigprocmask(SIG_SETMASK, &mask, NULL);
    }
    snprintf(late, sizeof(late), ": it did not come to an end within %u s\n", seconds);
    on = seconds && timer_create(CLOCK_MONOTONIC, &event, &timer) == 0;
    if (!on)
        return;
    sigaction(SIGRTMAX, &action, &before);
    sigprocmask(SIG_UNBLOCK, &set, &mask);
    timer_settime(timer, 0, &time, NULL);
}

static char said[PATH_MAX + 1024];

const char *say_last(void)
{
    return said;
}

static void say_line(const char *format, va_list args)
{
    char clean[sizeof(said)];
    vsnprintf(said, sizeof(said), format, args);
    fprintf(stderr, "%s: %s\n", program_name,
            say_clean(said, sizeof(said), say_utf8(), clean, sizeof(clean)));
}

int say_error(int status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    say_line(format, args);
    va_end(args);
    return status;
}

int say_bad_input(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    say_line(format, args);
    va_end(args);
    return bad_input_status;
}

const char *say_program(void)
{
    return program_name;
}

int say_end(int status)
{
    if (fflush(stdout) != 0 || ferror(stdout))
        return say_error(EXIT_FAILED, "stdout cannot be written");
    return status;
}

/* The system's word for what the pool has no words for. */
int say_pool_error(const char *path, int error)
{
    const char *why = pool_strerror(error);
    if (strcmp(why, pool_strerror(0)) == 0)
        why = strerror(-error);
    if (error == -ENOENT)
        return say_error(EXIT_BAD_INPUT, "%s: there is no pool: 'fixport-pool create' makes one",
                         path);
    return say_error(EXIT_BAD_INPUT, "%s: %s", path, why);
}

bool say_utf8(void)
{
    return strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
}

unsigned say_columns(void)
{
    struct winsize size = {.ws_col = 0};
    const char *columns = getenv("COLUMNS");
    unsigned width = columns ? (unsigned)strtoul(columns, NULL, 10) : 0;
    if (!width && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0)
        width = size.ws_col;
    return !width ? 80 : width < 40 ? 40 : width > 400 ? 400 : width;
}

/* How long a character is that begins with @first; 0: none begins so. */
static size_t utf8_length(unsigned char first)
{
    if (first < 0x80)
        return 1;
    return first >> 5 == 6 ? 2 : first >> 4 == 14 ? 3 : first >> 3 == 30 ? 4 : 0;
}

/* Decodes one character of strict UTF-8 (RFC 3629). Return: its bytes, or 0 if it is none. */
static size_t utf8_decode(const unsigned char *at, size_t left, uint32_t *code)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t n = utf8_length(at[0]);
    if (n == 0 || n > left)
        return 0;
    *code = n == 1 ? at[0] : at[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if (at[i] >> 6 != 2)
            return 0;
        *code = *code << 6 | (at[i] & 0x3f);
    }
    bool surrogate = *code >= 0xd800 && *code <= 0xdfff;
    return *code < least[n] || surrogate || *code > 0x10ffff ? 0 : n;
}

/* Control characters, line separators, and what hides or reorders text (Unicode's Cf). */
static bool utf8_harmless(uint32_t code)
{
    return code >= 0x20 && (code < 0x7f || code > 0x9f) && code != 0xad && code != 0x61c &&
           (code < 0x200b || code > 0x200f) && (code < 0x2028 || code > 0x202e) &&
           (code < 0x2060 || code > 0x206f) && code != 0xfeff && (code < 0xfff0 || code > 0xfffb) &&
           (code < 0xe0000 || code > 0xe0fff);
}

const char *say_clean(const char *text, size_t most, bool utf8, char *buf, size_t size)
{
    size_t length = strnlen(text, most), out = 0, n;
    for (size_t i = 0; i < length; i += n ? n : 1) {
        uint32_t code = 0;
        n = utf8_decode((const unsigned char *)text + i, length - i, &code);
        bool keep = n && utf8_harmless(code) && (n == 1 || utf8);
        if (out + (keep ? n : 1) >= size)
            break;
        if (keep)
            memcpy(buf + out, text + i, n);
        else
            buf[out] = '?';
        out += keep ? n : 1;
    }
    buf[out] = '\0';
    return buf;
}

const char *say_age(uint64_t seconds, char *buf, size_t size)
{
    unsigned long long s = seconds;
    if (s < 60)
        snprintf(buf, size, "%llu s", s);
    else if (s < 3600)
        snprintf(buf, size, "%llu min", s / 60);
    else if (s < 86400)
        snprintf(buf, size, "%llu h %llu min", s / 3600, s / 60 % 60);
    else
        snprintf(buf, size, "%llu d %llu h", s / 86400, s / 3600 % 24);
    return buf;
}

int say_width(const char *text)
{
    wchar_t wide[512];
    size_t n = mbstowcs(wide, text, sizeof(wide) / sizeof(wide[0]));
    int width = n == (size_t)-1 || n == sizeof(wide) / sizeof(wide[0]) ? -1 : wcswidth(wide, n);
    return width < 0 ? (int)strlen(text) : width;
}

void say_cell(const char *text, int width)
{
    int fill = width - say_width(text);
    printf("%s%*s", text, (fill > 0 ? fill : 0) + 1, "");
}

void progress_step(struct progress *progress, size_t done, size_t total)
{
    uint64_t now = sys_now_ms();
    if (!progress->began)
        progress->began = now;
    if (now - progress->began < PROGRESS_AFTER_MS || now - progress->shown < PROGRESS_EVERY_MS ||
        !isatty(STDERR_FILENO))
        return;
    progress->shown = now;
    fprintf(stderr, "\r%s", progress->what);
    if (done || total)
        fprintf(stderr, ": %zu", done);
    if (total)
        fprintf(stderr, " of %zu", total);
    if (!done && !total)
        fputs(" ...", stderr);
    fflush(stderr);
}

void progress_end(struct progress *progress)
{
    if (progress->shown)
        fprintf(stderr, "\r%*s\r", (int)strlen(progress->what) + 40, "");
}
