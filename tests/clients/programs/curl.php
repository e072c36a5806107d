<?php
// SPDX-License-Identifier: MIT
// php's curl extension, which php opens with RTLD_DEEPBIND: curl.php URL.

$curl = curl_init($argv[1]);
curl_setopt($curl, CURLOPT_RETURNTRANSFER, true);
curl_setopt($curl, CURLOPT_TIMEOUT, 20);
echo curl_exec($curl), curl_getinfo($curl, CURLINFO_RESPONSE_CODE), "\n";
