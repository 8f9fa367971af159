// Notes what a host's part of a snapshot goes through, for coverage.ts: every step of the production state machine is
// seen, whoever asks for it.

import { type LocalInput, LocalSnapshot } from '../../switch/agent/snapshot/local-snapshot.js'
import type { World } from './world.js'

/** One runs at a time. */
let observed: World | null = null

export function observe(world: World): void {
  observed = world
}

const { step } = LocalSnapshot.prototype
LocalSnapshot.prototype.step = function (this: LocalSnapshot, input: LocalInput) {
  if (observed !== null) note(observed, this, input)
  return step.call(this, input)
}

function note({ marks }: World, { state, members, ended }: LocalSnapshot, input: LocalInput): void {
  if (input.kind === 'early' && state === 'prepared') marks.add('cut begun by a frame or marker')
  if (input.kind !== 'abort' || ended || state === 'undoing') return
  if (state === 'prepared' || state === 'writing') marks.add(`undone: ${state}`)
  for (const member of members.values())
    if (member.state !== 'recovering' && member.state !== 'failed') marks.add(`undone: ${member.state}`)
}
