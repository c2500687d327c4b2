// HTTP/2 in clear, by http2 as it comes. See ../README.md.
'use strict';
const http2 = require('http2');

const [what, address, port, ...rest] = process.argv.slice(2);

function serve() {
  const server = http2.createServer((request, response) => {
    setTimeout(() => response.end('ok'), +request.url.replace('/think/', ''));
  });
  server.listen(port, address, 64, () => console.log('ready'));
  process.stdin.resume().on('end', () => process.exit(0));
}

async function ask([path, requests, pause]) {
  const session = http2.connect(`http://${address}:${port}`);
  for (let request = 0; request < +requests; request++) {
    if (request > 0) await new Promise((done) => setTimeout(done, +pause));
    await new Promise((done, failed) => {
      session.request({ ':path': path }).on('error', failed).on('end', done).resume();
    });
  }
  session.close();
}

if (what === 'serve') serve();
else ask(rest);
