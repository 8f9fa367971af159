// One host's part of a snapshot, as a state machine over the cuts of its machines and the closure of its channels.
// Pure: events in, effects out; no promise, no clock. The agent performs the effects; so does the simulator in test/.
//
//   prepared --take--> cutting --all cut, channels closed, images sealed--> writing --written--> done
//   before done --abort--> undoing --all recovered--> failed
//
// A part that is done and then not wanted (another host has failed) is deleted like any finished snapshot.

import type { ErrorReport } from '../../../src/errors/errors.js'
import { hasCut, type MemberEffect, type MemberEvent, type MemberState, memberStep } from './member-cut.js'

export type LocalState = 'prepared' | 'cutting' | 'writing' | 'done' | 'undoing' | 'failed'

export type LocalInput =
  | { readonly kind: 'take' }
  /** The Lai-Yang trigger: a frame or marker from after the cut has come. */
  | { readonly kind: 'early' }
  | { readonly kind: 'member'; readonly vm: string; readonly event: MemberEvent }
  | { readonly kind: 'closed' }
  | { readonly kind: 'written' }
  | { readonly kind: 'abort'; readonly error: ErrorReport }
  /** A machine's port has lost its device, or has one again: it begins at the new epoch, without a cut. */
  | { readonly kind: 'moved'; readonly vm: string; readonly error: ErrorReport }

export type LocalEffect =
  /** Opens the snapshot in the datapath: record, count markers. */
  | { readonly kind: 'begin' }
  | { readonly kind: 'member'; readonly vm: string; readonly effect: MemberEffect }
  /** Takes the channel state from the datapath and makes the part durable. */
  | { readonly kind: 'write' }
  /** Moves every member of the network on to the epoch, gates open, without a cut. */
  | { readonly kind: 'advance' }
  | { readonly kind: 'finish'; readonly error: ErrorReport | null }

export class LocalSnapshot {
  state: LocalState = 'prepared'
  readonly members: ReadonlyMap<string, { state: MemberState }>
  #channelsClosed = false
  #error: ErrorReport | null = null

  constructor(machines: readonly string[]) {
    this.members = new Map(machines.map((vm) => [vm, { state: 'ready' }]))
  }

  get ended(): boolean {
    return this.state === 'done' || this.state === 'failed'
  }

  step(input: LocalInput): LocalEffect[] {
    switch (input.kind) {
      case 'take':
      case 'early':
        return this.state === 'prepared' ? this.#start() : []
      case 'member':
        return this.#memberEvent(input.vm, input.event)
      case 'closed':
        this.#channelsClosed = true
        return this.#completeIfReady()
      case 'written':
        if (this.state !== 'writing') return []
        this.state = 'done'
        return [{ kind: 'finish', error: null }]
      case 'abort':
        return this.#abort(input.error)
      case 'moved': {
        const member = this.members.get(input.vm)
        return member === undefined || hasCut(member.state) ? [] : this.#abort(input.error)
      }
    }
  }

  #start(): LocalEffect[] {
    this.state = 'cutting'
    const effects: LocalEffect[] = [{ kind: 'begin' }]
    for (const vm of this.members.keys()) effects.push(...this.#memberEvent(vm, 'begin'))
    return [...effects, ...this.#completeIfReady()]
  }

  #memberEvent(vm: string, event: MemberEvent): LocalEffect[] {
    const member = this.members.get(vm)
    const step = member === undefined ? null : memberStep(member.state, event)
    if (member === undefined || step === null) return []
    const [next, effect] = step
    member.state = next
    const effects: LocalEffect[] = effect === null ? [] : [{ kind: 'member', vm, effect }]
    return [...effects, ...(this.state === 'undoing' ? this.#failedIfRecovered() : this.#completeIfReady())]
  }

  #completeIfReady(): LocalEffect[] {
    if (this.state !== 'cutting' || !this.#channelsClosed) return []
    for (const { state } of this.members.values()) if (state !== 'done') return []
    this.state = 'writing'
    return [{ kind: 'write' }]
  }

  #abort(error: ErrorReport): LocalEffect[] {
    if (this.state === 'undoing' || this.ended) return []
    this.state = 'undoing'
    this.#error = error
    const effects: LocalEffect[] = []
    for (const vm of this.members.keys()) effects.push(...this.#memberEvent(vm, 'abort'))
    return [...effects, { kind: 'advance' }, ...this.#failedIfRecovered()]
  }

  #failedIfRecovered(): LocalEffect[] {
    if (this.state !== 'undoing') return []
    for (const { state } of this.members.values()) if (state !== 'failed') return []
    this.state = 'failed'
    return [{ kind: 'finish', error: this.#error }]
  }
}
