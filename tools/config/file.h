/* SPDX-License-Identifier: MIT */
/*
 * The configuration file before anybody asks what it means: its sections, keys and values.
 *
 * There is one file for the whole site (site.h), with its parts, and two who read it: config_load()
 * takes [pool] and [rule], site_load() everything. Both see it through these functions, so what one
 * refuses the other refuses in the same words: a name that is not known, one that stands twice, a
 * value that would not mean what it looks like. Which sections and keys there are is one table, in
 * names.c.
 *
 * Functions that return int return 0, or a negative errno value with the reason written to the
 * file's config_error.
 */
#ifndef FIXPORT_TOOLS_CONFIG_FILE_H
#define FIXPORT_TOOLS_CONFIG_FILE_H

#include "config.h"

#define CONFIG_LINE_MOST 1022  /* ASCIILINESZ in iniparser.c, less a newline and a NUL */
#define CONFIG_NUMBER_MOST 99  /* a long list goes on in KEY-2 to KEY-99 */
#define CONFIG_SHOWN_VALUE 160 /* bytes of a value that a message shows */
#define CONFIG_PLACE 360       /* "line 7 of PATH" */

enum section_kind {
    SECTION_POOL,
    SECTION_RULE,
    SECTION_ALIAS,
    SECTION_MACHINE,
    SECTION_NODE,
    SECTION_PODS,
    SECTION_HOSTS,
    SECTION_GATEWAY,
    SECTION_SNAT,
    SECTION_CONTROL_PLANE,
    SECTION_SETUP,
    SECTION_KINDS,
};

enum config_key {
    KEY_PORTS,
    KEY_PATH,
    KEY_TO,
    KEY_QUARANTINE,
    KEY_EXHAUSTED,
    KEY_SCOPE,
    KEY_MODE,
    KEY_GROUP,
    KEY_LANES,
    KEY_SLICES,
    KEY_SERVER,
    KEY_ROLES,
    KEY_ADDRESS,
    KEY_PODS,
    KEY_BLOCKS,
    KEY_SERVICES,
    KEY_ADDRESSES,
    KEY_STATEFUL,
    KEY_EXCLUSIVE,
    KEY_NODE_PORTS,
    KEY_MANIFEST,
    KEY_PERSIST,
    KEY_IPTABLES,
    KEY_NODE_POOL,
    KEY_MARK,
    KEY_LEAVE,
    KEY_COUNT,
};

/* A kind of section. Each may stand once; those with names, once with each name. */
struct section_type {
    const char *name;      /* "rule" */
    const char *label;     /* "[rule NAME]" */
    const char *what;      /* "a rule": has a name of its own; NULL: it has none */
    size_t name_most;      /* bytes of that name */
    size_t most;           /* sections of it; 0: any number */
    enum config_key list;  /* the key whose list may be long; KEY_COUNT: none */
    const char *long_list; /* what to do with a line too long, for people */
};

/* A key that stands in a section, and what iniparser makes of its value. */
struct config_value {
    enum config_key key;
    unsigned number; /* KEY-2: 2; KEY: 1 */
    unsigned line;
    char *text;
};

/* One of the files: the one that is named, or a part of it. */
struct config_text {
    char *path;
    char *bytes; /* NUL-terminated */
    size_t length;
};

/* What is taken instead of what stands in a file; a list of these ends with a path of NULL. */
struct config_overlay {
    const char *path; /* as it is made of the configuration's: "/etc/fixport.conf.d/a.conf" */
    const char *text; /* NULL: a part that is left out */
};

/* A section as it stands in its file. */
struct config_section {
    const struct section_type *type;
    const struct config_text *from;
    unsigned line;
    size_t offset;              /* of its first byte in the text */
    struct config_value *value; /* in the file's order */
    size_t values;
    const char *own; /* in name: "databases"; NULL: it has none */
    char name[];     /* as iniparser has it, lower case: "pool", "rule databases" */
};

struct config_file {
    const char *path; /* of the file that was named */
    struct config_error *error;
    struct config_text **text; /* that file, and its parts in their order */
    size_t texts;
    const struct config_text *reading; /* what errors are in while it is read; NULL: afterwards */
    bool owned;                        /* owner is known: of the file that was named */
    uid_t owner;
    struct config_section **section; /* in the files' order */
    size_t sections;
    void *names; /* of sections, for tsearch(3) */
    size_t count[SECTION_KINDS];
};

/* A line as iniparser sees it: continued ones joined, without the spaces around. */
struct config_line {
    char text[CONFIG_LINE_MOST + 1];
    unsigned number; /* in the file, of its first part */
    size_t offset;
};

/* ---- file.c ---- */

/**
 * config_file_read - read a file and its parts, and everything in them that can be refused by its
 * form. The parts are the files PATH.d/NAME.conf, in the order of their names.
 * @file: the result; free with config_file_free(), always.
 * @path: a file, or a pipe such as /dev/stdin; read once. Must last as long as @file.
 * @over: what is taken instead of what stands in files; NULL: nothing.
 * @error: where this and config_file_refuse() write to.
 *
 * Only regular files and no symlinks are parts, and they and the folder must belong to root, to the
 * caller or to the owner of @path, and not be writable by everybody: else it is refused (-EPERM).
 */
int config_file_read(struct config_file *file, const char *path, const struct config_overlay *over,
                     struct config_error *error);

/** config_file_free - give back. */
void config_file_free(struct config_file *file);

/** config_file_section - the section of a kind that has no names; NULL: it is not there. */
const struct config_section *config_file_section(const struct config_file *file,
                                                 enum section_kind kind);

/** config_file_named - the section of a kind with the name @own; NULL: it is not there. */
const struct config_section *config_file_named(const struct config_file *file,
                                               enum section_kind kind, const char *own);

/**
 * config_section_value - what a key says, of one with numbers the first that stands there.
 * Return: NULL if it is not there. @section may be NULL.
 */
const struct config_value *config_section_value(const struct config_section *section,
                                                enum config_key key);

/** config_is_space - as isspace(3) in the C locale: what iniparser takes off. */
bool config_is_space(char c);

/* ---- ini.c ---- */

/** config_file_values - fill in the values' texts. */
int config_file_values(const struct config_file *file);

/* ---- names.c ---- */

extern const struct section_type section_types[SECTION_KINDS];

/** section_type_find - by the first word of "rule databases"; NULL: there is none. */
const struct section_type *section_type_find(const char *name);

/**
 * config_key_find - a key of a section by its name.
 * @number: 2 for "pods-2", 1 without a number.
 * Return: KEY_COUNT if there is no such key in such a section.
 */
enum config_key config_key_find(const struct section_type *type, const char *name,
                                unsigned *number);

/** config_value_name - how iniparser calls a value: "rule databases:ports", "node a:pods-2". */
void config_value_name(const struct config_section *section, const struct config_value *value,
                       char *buf, size_t size);

/** config_shown - text made harmless: printable ASCII, cut. @buf: @most + 4 bytes. Return: @buf. */
const char *config_shown(const char *text, size_t most, char *buf);

/** config_place - "line 7", and of which file if @from is in another than @here. Return: @buf. */
const char *config_place(const struct config_section *from, unsigned line,
                         const struct config_section *here, char buf[CONFIG_PLACE]);

/** config_file_refuse - one line: "PATH: ...", of the file that is read. Return: @error. */
int config_file_refuse(const struct config_file *file, int error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/** config_file_refuse_lack - 'PATH: [node a]: @why': it lacks something. Return: -EINVAL. */
int config_file_refuse_lack(const struct config_file *file, const struct config_section *section,
                            const char *why);

/** config_file_refuse_memory - the same when there is no memory. Return: -ENOMEM. */
int config_file_refuse_memory(const struct config_file *file);

/** config_file_refuse_line - 'PATH: line 7: "what stands there": @why'. Return: -EINVAL. */
int config_file_refuse_line(const struct config_file *file, const struct config_line *line,
                            const char *why);

/** config_file_refuse_value - 'PATH: [rule a] ports = "60001-80001": @why'. Return: -EINVAL. */
int config_file_refuse_value(const struct config_file *file, const struct config_section *section,
                             const struct config_value *value, const char *why);

/** config_file_refuse_key - the same for a key that is not known: what was meant. */
int config_file_refuse_key(const struct config_file *file, const struct config_section *section,
                           const char *key, const char *value);

/** config_file_refuse_section - the same for a section that is not known. */
int config_file_refuse_section(const struct config_file *file, const struct config_line *line,
                               const char *name);

/* ---- config.c ---- */

/** config_build - what [pool] and [rule] say. @config: untouched on failure. */
int config_build(const struct config_file *file, struct config *config);

/**
 * config_path_read - take an absolute path of a file, without "//" and "/./" then.
 * @buf: of @size bytes. Return: NULL, or why not.
 */
const char *config_path_read(const char *text, const char *example, char *buf, size_t size);

#endif
