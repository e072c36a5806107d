// SPDX-License-Identifier: MIT
// What node programs do: client.js ECHO_PORT HTTP_PORT. libuv connects without blocking, tries both
// address families by itself (autoSelectFamily), and binds first when a local address is given.
"use strict";
const http = require("http");
const net = require("net");
const [echo, web] = process.argv.slice(2).map(Number);

function talk(options) {
    return new Promise((resolve, reject) => {
        const socket = net.connect({ port: echo, ...options }, () => {
            console.log("local", socket.localAddress.replace("::ffff:", ""), socket.localPort);
            socket.end("hello");
        });
        let answer = "";
        socket.on("data", (data) => { answer += data; });
        socket.on("close", () => resolve(console.log(answer)));
        socket.on("error", reject);
    });
}

function get(options) {
    return new Promise((resolve, reject) => {
        http.get({ host: "127.0.0.1", port: web, path: "/", ...options }, (response) => {
            console.log("local", response.socket.localAddress, response.socket.localPort);
            let body = "";
            response.on("data", (data) => { body += data; });
            response.on("end", () => resolve(console.log(response.statusCode, body)));
        }).on("error", reject);
    });
}

async function main() {
    await talk({ host: "127.0.0.1" });
    await talk({ host: "::1" });
    await talk({ host: "localhost" });
    await talk({ host: "127.0.0.1", localAddress: "127.0.0.2" });
    await talk({ host: "::1", localAddress: "::1" });
    await get({});
    const agent = new http.Agent({ keepAlive: true, maxSockets: 5 });
    await get({ agent });
    await get({ localAddress: "127.0.0.1" });
    agent.destroy();
}

main().catch((error) => { console.error(error); process.exitCode = 1; });
