// fetch.js HOST PORT [PROXY PROXYPORT]: prints the page; through a SOCKS 5 proxy where one is given.
const http = require("http");
const net = require("net");
const [host, port, proxy, proxyPort] = process.argv.slice(2);

function get(options) {
  http
    .get({ host, port, path: "/", ...options }, (response) => response.pipe(process.stdout))
    .on("error", (error) => {
      console.error(error.message);
      process.exitCode = 1;
    });
}

if (proxy) {
  const socket = net.connect(proxyPort, proxy, () => socket.write(Buffer.from([5, 1, 0])));
  socket.once("data", () => {
    const request = [5, 1, 0, 1, ...host.split(".").map(Number), port >> 8, port & 255];
    socket.write(Buffer.from(request));
    socket.once("data", () => get({ createConnection: () => socket }));
  });
} else {
  get({});
}
