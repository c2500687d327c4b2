// HTTP/1.1 and HTTP/2 by http2's secure server. See ../README.md for the arguments.
'use strict';
const fs = require('fs');
const http2 = require('http2');

const [address, first, ports, certificate, key, keylog] = process.argv.slice(2);
const settings = { cert: fs.readFileSync(certificate), key: fs.readFileSync(key), allowHTTP1: true };
let listening = 0;
for (let port = +first; port < +first + +ports; port++) {
  const server = http2.createSecureServer(settings, (request, response) => {
    setTimeout(() => response.end('answered\n'), +request.url.replace('/think/', ''));
  });
  server.on('keylog', (line) => fs.appendFileSync(keylog, line));
  // Clients that close without close_notify are no news.
  server.on('sessionError', () => {}).on('tlsClientError', () => {});
  server.listen(port, address, 128, () => { if (++listening === +ports) console.log('ready'); });
}
process.stdin.resume().on('end', () => process.exit(0));
