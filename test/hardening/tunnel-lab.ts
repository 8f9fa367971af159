// Transfers through tunnels, and what must not have happened to them.

import { createHash } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import { patience } from '../patience.js'
import type { Switch, World } from '../switch/world.js'
import { dropsOf } from './daemon-health.js'

/** Some hundred GSO frames each way. */
const BYTES = 8_000_000

/** A file to send, and its digest. */
export function contentFile(world: World): { file: string; digest: string } {
  const file = join(world.directory, 'content')
  const content = Buffer.alloc(BYTES, createHash('sha512').update('content').digest())
  writeFileSync(file, content)
  return { file, digest: createHash('sha256').update(content).digest('hex') }
}

/** The program that receives: prints the digest of what came. */
const LISTEN = `
const hash = require('node:crypto').createHash('sha256')
require('node:net').createServer((s) => s.on('data', (d) => hash.update(d)).on('end', () => {
  console.log(hash.digest('hex'))
  s.end()
  process.exit()
})).listen(5555, process.argv[1], () => console.log('listening'))`
const SEND = `
const s = require('node:net').connect(5555, process.argv[1])
s.on('close', () => process.exit())
require('node:fs').createReadStream(process.argv[2]).pipe(s)`

/** Sends a file by TCP; returns the digest of what came. */
export async function transfer(world: World, to: string, from: string, address: string, file: string): Promise<string> {
  const listener = await world.start(to, process.execPath, '-e', LISTEN, address)
  await listener.says(/listening/)
  await world.in(from, process.execPath, '-e', SEND, address, file)
  await listener.closed
  return listener.stdout.split('\n')[1]
}

/** No kernel has seen a wrong checksum. */
export async function noErrors(t: Test, world: World, ...labels: string[]): Promise<void> {
  for (const label of labels) {
    const four = (await world.in(label, 'cat', '/proc/net/snmp')).split('\n')
    for (const [protocol, field] of [
      ['Tcp', 'InCsumErrors'],
      ['Udp', 'InCsumErrors'],
      ['Ip', 'InHdrErrors'],
    ]) {
      const [head, values] = four.filter((line) => line.startsWith(`${protocol}: `))
      t.equal(values.split(' ')[head.split(' ').indexOf(field)], '0', `${label}: ${protocol} ${field}`)
    }
    t.match(await world.in(label, 'cat', '/proc/net/snmp6'), /Udp6InCsumErrors\s+0\s/, `${label}: Udp6InCsumErrors`)
  }
}

export async function nothingLost(t: Test, daemon: Switch): Promise<void> {
  for (const { name, counters } of await daemon.client.ports({ deadlineMs: patience(5000) })) {
    const { 'device-dropped': _full, starting: _quiet, ...drops } = counters.drops
    t.same(drops, {}, `${name}: no drop but of full queues, and before peers are known (${dropsOf(counters)})`)
  }
}
