/* SPDX-License-Identifier: MIT */
/*
 * Paths under another root (--root DIR).
 */
#ifndef FIXPORT_TOOLS_SETUP_PATH_H
#define FIXPORT_TOOLS_SETUP_PATH_H

/** setup_root - prefix of every path (--root DIR); "" by default. Set once, before all else. */
extern const char *setup_root;

/**
 * setup_path - @path under the root, in one of four static buffers used in turn.
 * The kernel's own files (/proc) are never under the root. Symlinks among the folders lead to where
 * they would if the root were "/": a root cannot be left. The last component is not looked up. Ends
 * the tool if a symlink leads to nothing there.
 */
const char *setup_path(const char *path);

/** setup_folder - as setup_path() for a folder: its last component is looked up too, if it is there. */
const char *setup_folder(const char *path);

#endif
