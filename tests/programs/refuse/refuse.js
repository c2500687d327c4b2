// One TLS connection that trusts one authority: ADDRESS PORT NAME VERSION AUTHORITY. Prints how it went.
'use strict';
const tls = require('tls');
const fs = require('fs');

const [host, port, servername, version, authority] = process.argv.slice(2);
const limits = { minVersion: `TLSv${version}`, maxVersion: `TLSv${version}`, ALPNProtocols: ['h2', 'http/1.1'] };
const stream = tls.connect({ host, port, servername, ca: fs.readFileSync(authority), ...limits });
const end = (...words) => {
  console.log(...words);
  stream.destroy();
};
stream.setTimeout(1500, () => end('failed: timeout'));
stream.on('secureConnect', () => stream.write('GET / HTTP/1.0\r\n\r\n'));
stream.on('data', (bytes) => end('ok', bytes.length));
stream.on('error', (error) => end('failed:', error.message));
stream.on('end', () => end('failed: ended'));
