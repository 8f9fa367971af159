// A captured frame in one line, to read in a terminal: when, where, what became of it, who sent what to whom.

import { frameInWords } from '../frame/summary.js'
import { inWords, nameOf, type PacketWords } from './pcapng.js'
import { type CapturedPort, PacketField } from './stream.js'

export function lineOf(port: CapturedPort, words: PacketWords, content: Buffer): string {
  const at = new Date(content.readDoubleLE(PacketField.TIME))
  const arrow = words.direction === 'in' ? '->' : '<-'
  return `${timeOf(at)} ${nameOf(port)} ${arrow} ${inWords(words)}: ${frameInWords(content.subarray(PacketField.DATA), content.readUInt32LE(PacketField.LENGTH))}`
}

function timeOf(at: Date): string {
  const two = (n: number, digits = 2) => String(n).padStart(digits, '0')
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}.${two(at.getMilliseconds(), 3)}`
}
