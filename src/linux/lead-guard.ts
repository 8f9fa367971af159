// Puts hypervisors' threads back when this process is killed in the middle of a cut and has left them ahead of
// everything (priority.ts). A vCPU that never rests would keep a core for itself: with as many of them as cores, the
// next daemon, which puts such threads back as well (`endForgottenLead`), would have to start with a twentieth of a
// core or, where real-time threads are not throttled (sched_rt_runtime_us), with none.

import { leadPriorities, stayAhead, threadsOf } from './priority.js'
import { type Survivor, startSurvivor } from './survivor.js'

/**
 * It waits for lines, each with all processes whose threads may be ahead, and for the end of whoever could send them.
 * chrt says of each thread: `pid 7's current scheduling policy: …`, and in a second line the same of its priority.
 */
const SCRIPT = `while read -r line; do led=$line; done
for pid in $led; do
  chrt --all-tasks --pid "$pid" 2>/dev/null | while read -r _ thread _ _ what value; do
    case $what$value in
      policy:*) policy=$value ;;
      priority:[${Object.values(leadPriorities).join('')}])
        [ "$policy" != 'SCHED_FIFO|SCHED_RESET_ON_FORK' ] || chrt --other --pid 0 "\${thread%\\'s}" ;;
    esac
  done
done`

let guard: Survivor | null = null
let guarded: readonly number[] = []

/** The processes' threads will be put ahead (`runAhead`): should this process die meanwhile, they are put back. */
export function guardLead(pids: readonly number[]): void {
  if (pids.every((pid) => guarded.includes(pid))) return
  guarded = [...new Set([...guarded.filter((pid) => threadsOf(pid).length > 0), ...pids])]
  if (guard === null) {
    guard = startSurvivor('snapswitch-lead', SCRIPT)
    // Behind those that it puts back, it would get as little as the next daemon.
    if (guard.pid !== null) stayAhead(guard.pid)
  }
  guard.say(guarded.join(' '))
}
