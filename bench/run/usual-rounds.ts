// How many rounds each bench makes when it is not told: as many as its figures need to be told from noise.

export const usualRounds = { vnsnap: 5, forwarding: 5, snapshot: 8, growth: 3, stores: 1 } as const
