/** Environment variable that names the folder of clock offsets. */
export const CLOCK_VARIABLE = "RALLY_CHAOS_CLOCKS";
