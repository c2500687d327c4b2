// HTTP/1.1 by https, HTTP/2 by http2. See ../README.md for the arguments; --tls-keylog of node itself writes the keys.
'use strict';
const https = require('https');
const http2 = require('http2');

const [address, port, name, tls, http, path, connections, parallel, requests] = process.argv.slice(2);
const version = `TLSv${tls}`;
const settings = {
  servername: name, rejectUnauthorized: false, minVersion: version, maxVersion: version,
  ALPNProtocols: [http === '1' ? 'http/1.1' : 'h2'],
};

async function one() {
  // No session cache: each handshake is a full one.
  const agent = new https.Agent({ keepAlive: true, maxSockets: 1, maxCachedSessions: 0, ...settings });
  for (let request = 0; request < requests; request++) {
    await new Promise((done, fail) => {
      const sent = https.get({ host: address, port, path, agent, headers: { Host: name } }, (answer) => {
        if (answer.statusCode !== 200 || sent.reusedSocket !== request > 0) fail(new Error(`${answer.statusCode}, reused ${sent.reusedSocket}`));
        // The socket is free once the stream has ended; the next request must find it.
        answer.resume().on('end', () => setImmediate(done));
      }).on('error', fail);
    });
  }
  agent.destroy();
}

async function two() {
  const session = http2.connect(`https://${address}:${port}`, settings);
  for (let request = 0; request < requests; request++) {
    await new Promise((done, fail) => {
      session.on('error', fail);
      const stream = session.request({ ':path': path, ':authority': name });
      stream.on('response', (head) => { if (head[':status'] !== 200) fail(new Error(head[':status'])); });
      stream.on('error', fail).on('end', done).resume();
    });
  }
  await new Promise((done) => session.close(done));
}

async function worker(count) {
  for (let i = 0; i < count; i++) await (http === '1' ? one() : two());
}

const shares = Array.from({ length: parallel }, (_, i) => Math.floor((+connections + i) / parallel));
Promise.all(shares.map(worker)).catch((error) => {
  console.error(`client.js: ${error.stack}`);
  process.exit(1);
});
