// Performs what the sequences decide: calls agents, writes manifests, sets timers, and feeds back what came of it.
// There is no decision in here; whatever needs one belongs into the tables of sequence/.

import { contentOf } from '../src/api/files.js'
import type { LocalEvent, Manifest } from '../src/api/schemas.js'
import { type ErrorReport, SnapswitchError } from '../src/errors/errors.js'
import type { Call } from './agents.js'
import { Copying } from './copying.js'
import {
  beginRestore,
  type RestoreCall,
  type RestoreData,
  type RestoreEffect,
  type RestoreEvent,
  type RestoreInput,
  type RestoreOutcome,
  type RestoreState,
  restoreTable,
} from './sequence/restore/sequence.js'
import {
  beginSnapshot,
  type SnapshotCall,
  type SnapshotData,
  type SnapshotEffect,
  type SnapshotEvent,
  type SnapshotInput,
  type SnapshotOutcome,
  type SnapshotState,
  snapshotTable,
} from './sequence/snapshot/sequence.js'
import { type RunOptions, runSequence, type SequenceContext, settle } from './sequence-runner.js'

/** Takes the snapshot; resolves with the outcome, and rejects only on a defect. */
export function runSnapshot(
  input: SnapshotInput,
  options: RunOptions & { readonly store: (manifest: Manifest) => Promise<void> },
): Promise<SnapshotOutcome> {
  const { agents, onProgress, clock } = options
  const perform = (effect: SnapshotEffect, context: SequenceContext<SnapshotEvent>): SnapshotOutcome | undefined => {
    const call = (timeoutMs: number): Call => ({ timeoutMs, signal: context.ended })
    const agent = (host: string, what: SnapshotCall, act: () => Promise<SnapshotEvent>) => {
      settle<SnapshotEvent>(act, context.feed, (error) => ({ kind: 'agentFailed', host, call: what, error }))
    }
    switch (effect.do) {
      case 'preflight': {
        const { host } = effect
        agent(host, 'preflight', async () => {
          const preflight = await agents.preflight(host, call(effect.timeoutMs))
          return { kind: 'preflighted', host, preflight }
        })
        return
      }
      case 'prepare': {
        const { host, request } = effect
        agent(host, 'prepare', async () => {
          await agents.prepare(host, input.name, request, call(effect.timeoutMs))
          return { kind: 'prepared', host }
        })
        return
      }
      case 'take': {
        const { host } = effect
        const events = agents.take(host, input.name, call(effect.timeoutMs))
        const failed = (error: ErrorReport): SnapshotEvent => ({ kind: 'agentFailed', host, call: 'take', error })
        settle(() => forEachLocal(host, events, context.feed), context.feed, failed)
        return
      }
      case 'discard': {
        const { host, epoch } = effect
        context.later(effect.delayMs, () =>
          agent(host, 'discard', async () => {
            await agents.discard(host, input.name, epoch, call(effect.timeoutMs))
            return { kind: 'discarded', host }
          }),
        )
        return
      }
      case 'store':
        settle<SnapshotEvent>(
          async () => {
            await options.store(effect.manifest)
            return { kind: 'stored' }
          },
          context.feed,
          (error) => ({ kind: 'storeFailed', error }),
        )
        return
      case 'timer':
        context.later(effect.afterMs, () => context.feed({ kind: 'deadline', timer: effect.timer }))
        return
      case 'progress':
        onProgress({ ...progressOf(effect), atUs: clock.now().wallUs })
        return
      case 'finish':
        return effect.outcome
    }
  }
  return runSequence<SnapshotState, SnapshotData, SnapshotEvent, SnapshotEffect, SnapshotOutcome>(
    snapshotTable,
    beginSnapshot(input, clock.now()),
    perform,
    options,
  )
}

/** Restores; resolves with the outcome, and rejects only on a defect. */
export function runRestore(input: RestoreInput, options: RunOptions): Promise<RestoreOutcome> {
  const { agents, onProgress, clock } = options
  const { name } = input.manifest
  // Copies that nobody waits for any more are ended as soon as the undoing begins.
  const transfers = new AbortController()
  const copying = new Copying(onProgress, () => clock.now())
  const perform = (effect: RestoreEffect, context: SequenceContext<RestoreEvent>): RestoreOutcome | undefined => {
    const call = (timeoutMs: number): Call => ({ timeoutMs, signal: context.ended })
    const agent = (host: string, what: RestoreCall, act: () => Promise<RestoreEvent>) => {
      settle<RestoreEvent>(act, context.feed, (error) => ({ kind: 'agentFailed', host, call: what, error }))
    }
    switch (effect.do) {
      case 'preflight': {
        const { host } = effect
        agent(host, { do: 'preflight' }, async () => {
          const [preflight, ports] = await Promise.all([
            agents.preflight(host, call(effect.timeoutMs)),
            agents.ports(host, call(effect.timeoutMs)),
          ])
          const here = ports.filter((port) => port.network === input.manifest.network)
          const holds = here.flatMap((port) => (port.vm === null ? [] : [port.vm]))
          return { kind: 'preflighted', host, preflight, holds }
        })
        return
      }
      case 'check': {
        const { host, purpose, request } = effect
        agent(host, { do: 'check', purpose }, async () => {
          const check = await agents.restoreCheck(host, name, request, call(effect.timeoutMs))
          return { kind: 'checked', host, purpose, check }
        })
        return
      }
      case 'transfer': {
        const { file, to, timeoutMs } = effect
        const content = contentOf(file)
        const account = copying.account()
        agent(to, { do: 'transfer', content }, async () => {
          try {
            await agents.transfer(effect, name, { timeoutMs, signal: transfers.signal }, account.add)
          } catch (thrown) {
            account.takeBack()
            throw thrown
          }
          account.done()
          return { kind: 'transferred', host: to, content }
        })
        return
      }
      case 'load': {
        const { host, request } = effect
        agent(host, { do: 'load' }, async () => {
          const loaded = await agents.restoreLoad(host, name, request, call(effect.timeoutMs))
          return { kind: 'loaded', host, loaded }
        })
        return
      }
      case 'pause': {
        const { host, order } = effect
        agent(host, { do: 'pause' }, async () => {
          const paused = await agents.restorePause(host, name, order, call(effect.timeoutMs))
          return { kind: 'paused', host, paused }
        })
        return
      }
      case 'switch': {
        const { host } = effect
        context.later(effect.delayMs, () =>
          agent(host, { do: 'switch' }, async () => {
            const switched = await agents.restoreSwitch(host, name, call(effect.timeoutMs))
            return { kind: 'switched', host, switched }
          }),
        )
        return
      }
      case 'resume': {
        const { host } = effect
        context.later(effect.delayMs, () =>
          agent(host, { do: 'resume' }, async () => {
            const resumed = await agents.restoreResume(host, name, call(effect.timeoutMs))
            return { kind: 'resumed', host, resumed }
          }),
        )
        return
      }
      case 'abort': {
        const { host, epoch } = effect
        transfers.abort()
        context.later(effect.delayMs, () =>
          agent(host, { do: 'abort' }, async () => {
            const { running, standing = [] } = await agents.restoreAbort(host, name, epoch, call(effect.timeoutMs))
            return { kind: 'aborted', host, running, standing }
          }),
        )
        return
      }
      case 'timer':
        context.later(effect.afterMs, () => context.feed({ kind: 'deadline', timer: effect.timer }))
        return
      case 'progress':
        if (effect.copying !== undefined) copying.begin(effect.copying)
        onProgress({ ...progressOf(effect), atUs: clock.now().wallUs })
        return
      case 'finish':
        transfers.abort()
        return effect.outcome
    }
  }
  return runSequence<RestoreState, RestoreData, RestoreEvent, RestoreEffect, RestoreOutcome>(
    restoreTable,
    beginRestore(input, clock.now()),
    perform,
    options,
  )
}

/** Feeds a host's events; a stream that ends before `done` or `failed` is a lost agent. */
async function forEachLocal(
  host: string,
  events: AsyncIterable<LocalEvent>,
  feed: (event: SnapshotEvent) => void,
): Promise<null> {
  for await (const event of events) {
    feed({ kind: 'local', host, event })
    if (event.type === 'done' || event.type === 'failed') return null
  }
  throw new SnapswitchError(
    'SOCKET_UNREACHABLE',
    'the switch broke off its report before it was done',
    'See the log of the switch there.',
  )
}

function progressOf(effect: { text: string; host?: string; vm?: string }): {
  text: string
  host?: string
  vm?: string
} {
  const { text, host, vm } = effect
  return { text, ...(host === undefined ? {} : { host }), ...(vm === undefined ? {} : { vm }) }
}
