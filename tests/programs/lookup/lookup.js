// Lookups by c-ares (resolve4) or by getaddrinfo of the C library (lookup). See ../README.md for the arguments.
'use strict'
const dns = require('dns').promises
const fs = require('fs')

const [way, parallel, ...names] = process.argv.slice(2)

async function worker () {
  for (let name = names.shift(); name !== undefined; name = names.shift()) {
    try {
      await (way === 'resolve4' ? dns.resolve4(name) : dns.lookup(name, { all: true }))
    } catch {
      // Many names fail on purpose.
    }
  }
}

console.log(process.pid, fs.readFileSync('/proc/self/comm', 'utf8').trim())
Promise.all(Array.from({ length: Number(parallel) }, worker))
