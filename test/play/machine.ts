// A machine without a guest: a process that holds a TAP and writes the numbers of the frames down that it reads.
//
//   node machine.js DEVICE FILE PIDFILE       FILE: two bytes a frame; PIDFILE is there when the TAP is held

import { appendFileSync, renameSync, writeFileSync } from 'node:fs'
import { openTap } from '../../src/linux/tap.js'
import { readAll } from '../linux/wire.js'

const LOOK_MS = 5
const NUMBER_AT = 14

const [device = '', file = '', pidFile = ''] = process.argv.slice(2)
const tap = openTap(device, { nonBlocking: true })
writeFileSync(`${pidFile}.new`, String(process.pid))
renameSync(`${pidFile}.new`, pidFile)
setInterval(() => {
  const numbered = readAll(tap).filter((frame) => frame[12] === 0x88 && frame[13] === 0xb6)
  if (numbered.length === 0) return
  appendFileSync(file, Buffer.concat(numbered.map((frame) => frame.subarray(NUMBER_AT, NUMBER_AT + 2))))
}, LOOK_MS)
