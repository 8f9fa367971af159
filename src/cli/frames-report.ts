// `snapshot show --frames` as text.

import type { SnapshotFrame, SnapshotFrames } from '../api/schemas.js'
import { formatTable } from './output.js'

const FATES: Readonly<Record<SnapshotFrame['fate'], string>> = {
  'in-transit': 'in transit',
  residue: 'unread',
  held: 'held',
}

export function describeFrames({ network, name, frames, omitted, hosts }: SnapshotFrames): string {
  const count = (fate: SnapshotFrame['fate']) => frames.filter((frame) => frame.fate === fate).length
  const more = omitted === 0 ? '' : `, and ${omitted} more that are not listed`
  const lines = [
    `snapshot ${network}/${name}: ${count('in-transit')} in transit, ${count('residue')} unread, ${count('held')} held${more}\n`,
  ]
  if (frames.length > 0) {
    const head = ['HOST', 'PORT', 'VM', 'WHAT', 'COLOR', 'TIME', 'FRAME']
    const rows = frames.map(({ host, port, vm, fate, color, timeUs, summary }) => {
      const time = `${new Date(timeUs / 1000).toISOString().slice(11, 19)}.${String(Math.floor(timeUs) % 1e6).padStart(6, '0')}`
      return [host, port, vm, FATES[fate], color, time, summary]
    })
    lines.push('\n', formatTable(head, rows))
  }
  for (const { host, held, recorded, problem } of hosts) {
    if (problem !== null) lines.push(`host ${host}: frames are missing: ${problem}\n`)
    else if (!recorded) lines.push(`host ${host}: held ${held} frames, and has not noted which\n`)
    else {
      const listed = frames.filter((frame) => frame.host === host && frame.fate === 'held').length
      if (listed < held && omitted === 0)
        lines.push(`host ${host}: held ${held} frames, of which the first ${listed} are listed\n`)
    }
  }
  return lines.join('')
}
