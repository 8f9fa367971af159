// The pace of a hypervisor's threads around a cut: a guest that stands still must not wait for its hypervisor behind
// guests that run (src/linux/priority.ts says why nice values do not do that).

import { guardLead } from '../../linux/lead-guard.js'
import { endForgottenLead, runAhead, threadsOf } from '../../linux/priority.js'
import { isObject } from './qmp-messages.js'

/**
 * How long threads may run ahead of everything at most: a vCPU to read and stop, the others until the guest runs again.
 */
const stopMs = 40
const cutMs = 300

export class CutPace {
  readonly #pid: number | null
  readonly #between: () => readonly number[]
  #vcpus: readonly number[] = []
  #end: (() => void) | null = null
  #endVcpus: (() => void) | null = null

  /**
   * `pid`: the hypervisor's process; null when it cannot be seen, and then all goes at its own pace. `between`:
   * processes that commands to it pass through.
   */
  constructor(pid: number | null, between: () => readonly number[] = () => []) {
    this.#pid = pid
    this.#between = between
    for (const process of this.#processes()) endForgottenLead(process)
  }

  /**
   * A cut is to come. The vCPUs' threads, by QEMU's answer to `query-cpus-fast`; one may count them in a pid namespace
   * of its own.
   */
  prepare(answer: unknown): void {
    guardLead(this.#processes())
    const threads = new Set(this.#pid === null ? [] : threadsOf(this.#pid))
    const named = Array.isArray(answer) ? answer.map((cpu) => (isObject(cpu) ? cpu['thread-id'] : null)) : []
    this.#vcpus = named.filter((thread): thread is number => typeof thread === 'number' && threads.has(thread))
  }

  /**
   * All threads run ahead from now on: to read what the guest was sent, to stop, to do the cut. The vCPUs too, for one
   * that gets no core neither lets go of the lock that the others read under (QEMU's BQL) nor sees that it shall stop.
   * And this thread, or it would not get a core to end that in time.
   */
  begin(): void {
    if (this.#pid === null || this.#end !== null) return
    const others = this.#processes().flatMap(threadsOf)
    const ends = [
      runAhead([process.pid], 'switch', cutMs),
      runAhead(
        others.filter((thread) => !this.#vcpus.includes(thread)),
        'hypervisor',
        cutMs,
      ),
    ]
    this.#end = () => ends.forEach((end) => void end())
    this.#endVcpus = runAhead(this.#vcpus, 'vcpu', stopMs)
  }

  /** The vCPUs stand still; where they go on without, they go at the pace that they had. */
  stopped(): void {
    this.#endVcpus?.()
    this.#endVcpus = null
  }

  /** The guest runs: everything goes at the pace that it had. */
  end(): void {
    this.stopped()
    this.#end?.()
    this.#end = null
  }

  #processes(): number[] {
    return this.#pid === null ? [] : [this.#pid, ...this.#between()]
  }
}
