// One descriptor for what the control thread looks at now and then: the datapath thread, which waits in poll anyhow,
// tells when there is something. It tells of each piece of news once (EPOLLET): whoever is told looks at everything.

import { Events } from './epoll.js'

let events: Events | undefined
let isComplete = true

/** The process's. */
export const news = (): Events => {
  events ??= new Events()
  return events
}

/** Until it is closed. */
export function tellOf(fd: number): void {
  try {
    news().add(fd, 0, true)
  } catch {
    // There are too many watches for this user.
    isComplete = false
  }
}

/** False: there may be news of which it does not tell. */
export const tellsOfAll = (): boolean => isComplete
