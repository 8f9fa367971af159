// What a replay has come to, for people and programs.

import type { Replay } from '../../switch/recording/replay.js'
import { formatDuration, formatTime, type Terminal } from './output.js'

export interface Summary {
  readonly network: string
  readonly host: string
  readonly version: string
  readonly begun: string
  readonly seconds: number
  readonly inputs: number
  readonly frames: number
  readonly marks: number
  readonly digest: string
  readonly same: boolean
  readonly difference: Replay['difference']
  readonly damagedBefore: number | null
  readonly truncated: boolean
  readonly end: string | null
  readonly restores: readonly { epoch: number; seconds: number }[]
  readonly cuts: readonly { epoch: number; seconds: number; untilSeconds: number }[]
  readonly gaps: readonly { seconds: number; missed: number }[]
  readonly tookSeconds: number
}

export function summaryOf(replay: Replay, startMs: number, tookMs: number): Summary {
  const { head, input, frames, marks, difference, damagedBefore, end, restores, cuts, gaps } = replay
  const seconds = (ms: number) => Math.max(0, (ms - startMs) / 1000)
  return {
    network: head.options.network,
    host: head.options.host,
    version: head.version,
    begun: Number.isFinite(startMs) ? new Date(startMs).toISOString() : '',
    seconds: seconds(input.now),
    inputs: input.number,
    frames,
    marks,
    digest: replay.digest(),
    same: difference === null && damagedBefore === null,
    difference,
    damagedBefore,
    truncated: replay.isTruncated,
    end: end?.reason ?? null,
    restores: restores.map(({ epoch, now }) => ({ epoch, seconds: seconds(now) })),
    cuts: cuts.map(({ epoch, now, until }) => ({ epoch, seconds: seconds(now), untilSeconds: seconds(until) })),
    gaps: gaps.map(({ now, missed }) => ({ seconds: seconds(now), missed })),
    tookSeconds: tookMs / 1000,
  }
}

export function printSummary(terminal: Terminal, summary: Summary): void {
  const { network, host, version, begun, seconds, frames, inputs, marks, digest, difference, tookSeconds } = summary
  const say = (line: string) => terminal.out(`${line}\n`)
  const when = begun === '' ? 'nothing in it' : `from ${formatTime(new Date(begun))} on, ${formatDuration(seconds)}`
  say(`network ${network} on host ${host}, recorded by version ${version}: ${when}`)
  const rate = Math.round(frames / Math.max(tookSeconds, 0.001))
  say(`${inputs} inputs, ${frames} of them frames, in ${tookSeconds.toFixed(2)} s: ${rate} frames a second`)
  for (const cut of summary.cuts)
    say(`the cut of epoch ${cut.epoch} from ${cut.seconds.toFixed(6)} s to ${cut.untilSeconds.toFixed(6)} s`)
  for (const restore of summary.restores)
    say(`a restore at ${restore.seconds.toFixed(3)} s: frames from before epoch ${restore.epoch} go nowhere after it`)
  for (const gap of summary.gaps)
    say(`a gap after ${gap.seconds.toFixed(3)} s: ${gap.missed} frames found no room, and were not recorded`)
  if (summary.truncated) say('the file ends before the recording did: what is whole was replayed')
  if (summary.end !== null && !['asked', 'time', 'size'].includes(summary.end))
    say(`the recording is incomplete (${summary.end}): it goes up to here`)
  if (summary.damagedBefore !== null)
    say(`the file is not what was recorded: it was changed before byte ${summary.damagedBefore}`)
  if (difference !== null) {
    const { after, until, untilMs } = difference
    const at = ((untilMs - Date.parse(begun)) / 1000).toFixed(3)
    say(
      `not the same: first between inputs ${after + 1} and ${until}, at ${at} s. --step --from input:${after + 1} shows them`,
    )
  }
  if (summary.same) say(`the same has come out, at ${marks} marks`)
  say(`digest ${digest}`)
}
