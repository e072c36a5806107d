/* SPDX-License-Identifier: MIT */
/*
 * IP addresses as text: RFC 4291 (reading), RFC 5952 (writing). Own code, because the shim reads
 * FIXPORT_TO and has no C library to lean on. IPv4 is v4-mapped throughout (policy.h).
 */
#ifndef FIXPORT_ADDRESS_H
#define FIXPORT_ADDRESS_H

#include "text.h"

#include <stdbool.h>

/**
 * address_parse - read an IPv4 or IPv6 address of @length characters.
 * @addr: the result, v4-mapped for IPv4; untouched on failure.
 * Return: 4 or 6, or 0 if it is no address. Leading zeros in IPv4 parts are refused (some read them
 * as octal).
 */
int address_parse(const char *string, size_t length, uint8_t addr[16]);

/** address_is_v4 - whether it is v4-mapped. */
bool address_is_v4(const uint8_t addr[16]);

/** address_print - append an address, IPv4 in dotted form. */
void address_print(struct text *text, const uint8_t addr[16]);

/** address_mask - clear all bits after the first @prefix (0..128). */
void address_mask(uint8_t addr[16], unsigned prefix);

#endif
