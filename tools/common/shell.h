/* SPDX-License-Identifier: MIT */
/*
 * Commands that are shown for a person to paste into a shell.
 */
#ifndef FIXPORT_TOOLS_SHELL_H
#define FIXPORT_TOOLS_SHELL_H

/**
 * shell_quoted - @text as one word for a POSIX shell: as it is if that is safe, else in quotes.
 *
 * Whatever is not ours and becomes part of a command that is shown goes through here: names from
 * the cluster, paths, names of devices, tables and chains. Control characters stay: whoever prints
 * it cleans it (say_clean()).
 *
 * Return: malloc'd. Ends the tool for want of memory.
 */
char *shell_quoted(const char *text);

#endif
