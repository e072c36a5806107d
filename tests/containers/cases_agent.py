# SPDX-License-Identifier: MIT
CASES = []
